-- Transactions, customers and points of a local day: one row per product, and one total row (descNomeProduto null)
-- for every dtRef; key (dtRef, descNomeProduto). A transaction counts once for each distinct product in its cart;
-- without lines it is in the total only.
SELECT -- columns: meaning | unit | window | formula
    -- local day
    r.dtRef,
    -- product name: the row is of the transactions with it; null = the total, of all transactions
    p.descNomeProduto,
    -- transactions; 0 = none | transactions | day | count of transactions
    CAST(COALESCE(SUM(p.nrTransacoes), 0) AS BIGINT) AS nrQuantidadeTrasacoes,
    -- customers; 0 = none | customers | day | count of distinct idCliente that are not null
    COUNT(p.idCliente) AS nrQuantidadeClientes,
    -- net points; null = none | points | day | sum of points
    CAST(SUM(p.nrPontos) AS BIGINT) AS nrQuantidadePontos,
    -- points earned; 0 = none | points | day | sum of points where points > 0
    CAST(COALESCE(SUM(p.nrPontosPos), 0) AS BIGINT) AS nrQuantidadePontosPos,
    -- points spent, as a negative number; 0 = none | points | day | sum of points where points < 0
    CAST(COALESCE(SUM(p.nrPontosNeg), 0) AS BIGINT) AS nrQuantidadePontosNeg
FROM dtrefs AS r
LEFT JOIN gold.upsell._produto_cliente_dia AS p
    ON
        p.dtDia = r.dtRef
        -- The same of all dtRefs together, so that what lies outside is not read.
        AND p.dtDia >= :first_dtref AND p.dtDia <= :last_dtref
GROUP BY r.dtRef, p.descNomeProduto
