-- Sales by country and local day of Lisbon: one row per (dtRef, country) with an order.
WITH sales AS (
    SELECT
        CAST(FROM_UTC_TIMESTAMP(o.placed_at, 'Europe/Lisbon') AS DATE) AS day,
        c.country,
        o.amount
    FROM bronze.shop.orders AS o
    LEFT JOIN bronze.shop.customers AS c ON c.customer = o.customer
)

SELECT
    -- the local day
    r.dtRef,
    -- country of the customer; null: the customer is not known
    s.country,
    -- orders placed on the day | orders | day | COUNT(*)
    COUNT(*) AS orders,
    -- what they were worth | euros | day | SUM(amount)
    SUM(s.amount) AS amount
FROM dtrefs AS r
INNER JOIN sales AS s ON s.day = r.dtRef
GROUP BY r.dtRef, s.country
