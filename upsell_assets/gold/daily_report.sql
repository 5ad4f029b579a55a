-- Transactions, customers and points of a local day: one row per product, and one total row (descNomeProduto null)
-- for every dtRef; key (dtRef, descNomeProduto). A transaction counts once for each distinct product in its cart;
-- without lines it is in the total only.
SELECT
    r.dtRef, -- local day
    p.descNomeProduto, -- product name; null = the total
    CAST(COALESCE(SUM(p.nrTransacoes), 0) AS BIGINT) AS nrQuantidadeTrasacoes, -- transactions
    COUNT(p.idCliente) AS nrQuantidadeClientes, -- distinct customers
    CAST(SUM(p.nrPontos) AS BIGINT) AS nrQuantidadePontos, -- net points; null = none
    CAST(COALESCE(SUM(p.nrPontosPos), 0) AS BIGINT) AS nrQuantidadePontosPos, -- points earned
    CAST(COALESCE(SUM(p.nrPontosNeg), 0) AS BIGINT) AS nrQuantidadePontosNeg -- points spent, a negative number
FROM dtrefs AS r
LEFT JOIN gold.upsell._produto_cliente_dia AS p ON p.dtDia = r.dtRef
GROUP BY r.dtRef, p.descNomeProduto
