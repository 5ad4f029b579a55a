-- What each customer has bought in all: one row a customer with an order.
SELECT
    -- the customer
    o.customer,
    -- days with an order, over all days
    COUNT(DISTINCT CAST(FROM_UTC_TIMESTAMP(o.placed_at, 'Europe/Lisbon') AS DATE)) AS days,
    -- what all orders were worth, in euros
    SUM(o.amount) AS amount
FROM bronze.shop.orders AS o
GROUP BY o.customer
