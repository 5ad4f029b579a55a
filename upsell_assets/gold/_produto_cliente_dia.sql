-- One row per local day, product name and customer, and one per local day and customer over all products (name null).
-- A transaction counts once for each distinct product in its cart, with its full points; without lines it is in the
-- total only. Transactions without a customer have rows too (idCliente null); lines without a name have none.
WITH transacao AS (
    SELECT
        t.idTransacao,
        t.idCliente,
        t.nrPontosTransacao,
        CAST(FROM_UTC_TIMESTAMP(t.dtTransacao, 'America/Sao_Paulo') AS DATE) AS dtDia
    FROM silver.upsell.transacoes AS t
    WHERE t.dtTransacao IS NOT NULL
),

produto AS (
    SELECT DISTINCT
        p.idTransacao,
        p.descNomeProduto
    FROM silver.upsell.transacao_produto AS p
    WHERE p.descNomeProduto IS NOT NULL
),

contada AS (
    SELECT
        t.dtDia,
        CAST(NULL AS STRING) AS descNomeProduto,
        t.idCliente,
        t.nrPontosTransacao
    FROM transacao AS t
    UNION ALL
    SELECT
        t.dtDia,
        p.descNomeProduto,
        t.idCliente,
        t.nrPontosTransacao
    FROM transacao AS t
    INNER JOIN produto AS p ON p.idTransacao = t.idTransacao
)

SELECT
    c.dtDia, -- local day
    c.descNomeProduto, -- product name; null = all transactions
    c.idCliente, -- customer, uuid; null = transactions without one
    COUNT(*) AS nrTransacoes, -- transactions
    CAST(SUM(c.nrPontosTransacao) AS BIGINT) AS nrPontos, -- net points
    CAST(SUM(CASE WHEN c.nrPontosTransacao > 0 THEN c.nrPontosTransacao ELSE 0 END) AS BIGINT) AS nrPontosPos, -- earned
    CAST(SUM(CASE WHEN c.nrPontosTransacao < 0 THEN c.nrPontosTransacao ELSE 0 END) AS BIGINT) AS nrPontosNeg -- spent
FROM contada AS c
GROUP BY c.dtDia, c.descNomeProduto, c.idCliente
