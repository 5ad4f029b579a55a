-- Transactions, customers and points of the 28 local days that end with dtRef: one row per product, and one total row
-- (descNomeProduto null) for every dtRef; key (dtRef, descNomeProduto). A transaction counts once for each distinct
-- product in its cart; without lines it is in the total only.
WITH cliente AS (
    SELECT
        r.dtRef,
        p.descNomeProduto,
        p.idCliente,
        SUM(p.nrTransacoes) AS nrTransacoes,
        SUM(p.nrPontos) AS nrPontos,
        SUM(p.nrPontosPos) AS nrPontosPos,
        SUM(p.nrPontosNeg) AS nrPontosNeg
    FROM dtrefs AS r
    INNER JOIN gold.upsell._produto_cliente_dia AS p
        ON p.dtDia > DATE_SUB(r.dtRef, 28) AND p.dtDia <= r.dtRef
    GROUP BY r.dtRef, p.descNomeProduto, p.idCliente
)

SELECT
    r.dtRef, -- last local day of the 28
    c.descNomeProduto, -- product name; null = the total
    CAST(COALESCE(SUM(c.nrTransacoes), 0) AS BIGINT) AS nrQuantidadeTrasacoes, -- transactions
    COUNT(c.idCliente) AS nrQuantidadeClientes, -- distinct customers
    CAST(SUM(c.nrPontos) AS BIGINT) AS nrQuantidadePontos, -- net points; null = none
    CAST(COALESCE(SUM(c.nrPontosPos), 0) AS BIGINT) AS nrQuantidadePontosPos, -- points earned
    CAST(COALESCE(SUM(c.nrPontosNeg), 0) AS BIGINT) AS nrQuantidadePontosNeg, -- points spent, a negative number
    CAST(SUM(c.nrTransacoes) AS DOUBLE) / NULLIF(COUNT(c.idCliente), 0)
        AS nrQuantidadeTransacaoCliente -- transactions per customer
FROM dtrefs AS r
LEFT JOIN cliente AS c ON c.dtRef = r.dtRef
GROUP BY r.dtRef, c.descNomeProduto
