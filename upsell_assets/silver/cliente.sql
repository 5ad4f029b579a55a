-- Customers with their current balance of points; one row per idCliente.
SELECT
    c.idCustomer AS idCliente, -- customer, uuid
    CAST(c.PointsCustomer AS BIGINT) AS nrPontosCliente, -- current balance, points
    CAST(c.flEmail AS BIGINT) AS flEmailCliente -- 1 = has an e-mail address, 0 = has none, null = not known
FROM bronze.upsell.customers AS c
