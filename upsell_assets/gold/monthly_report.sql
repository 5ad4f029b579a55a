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
    -- The same of all dtRefs together, so that what lies outside is not read.
    WHERE p.dtDia > DATE_SUB(:first_dtref, 28) AND p.dtDia <= :last_dtref
    GROUP BY r.dtRef, p.descNomeProduto, p.idCliente
)

SELECT -- columns: meaning | unit | window | formula
    -- last local day of the 28
    r.dtRef,
    -- product name: the row is of the transactions with it; null = the total, of all transactions
    c.descNomeProduto,
    -- transactions; 0 = none | transactions | 28 days | count of transactions
    CAST(COALESCE(SUM(c.nrTransacoes), 0) AS BIGINT) AS nrQuantidadeTrasacoes,
    -- customers; 0 = none | customers | 28 days | count of distinct idCliente that are not null
    COUNT(c.idCliente) AS nrQuantidadeClientes,
    -- net points; null = none | points | 28 days | sum of points
    CAST(SUM(c.nrPontos) AS BIGINT) AS nrQuantidadePontos,
    -- points earned; 0 = none | points | 28 days | sum of points where points > 0
    CAST(COALESCE(SUM(c.nrPontosPos), 0) AS BIGINT) AS nrQuantidadePontosPos,
    -- points spent, as a negative number; 0 = none | points | 28 days | sum of points where points < 0
    CAST(COALESCE(SUM(c.nrPontosNeg), 0) AS BIGINT) AS nrQuantidadePontosNeg,
    -- transactions per customer; null = no customer | transactions per customer | 28 days
    -- | nrQuantidadeTrasacoes / nrQuantidadeClientes
    CAST(SUM(c.nrTransacoes) AS DOUBLE) / NULLIF(COUNT(c.idCliente), 0) AS nrQuantidadeTransacaoCliente
FROM dtrefs AS r
LEFT JOIN cliente AS c ON c.dtRef = r.dtRef
GROUP BY r.dtRef, c.descNomeProduto
