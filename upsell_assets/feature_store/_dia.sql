-- One row per customer and local day with activity: what the customer did on that day.
-- Transactions without a customer or a readable date are in no population and left out.
WITH transacao AS (
    SELECT
        t.idCliente,
        t.nrPontosTransacao,
        t.dtTransacao,
        FROM_UTC_TIMESTAMP(t.dtTransacao, 'America/Sao_Paulo') AS dtLocal
    FROM silver.upsell.transacoes AS t
    WHERE t.idCliente IS NOT NULL AND t.dtTransacao IS NOT NULL
)

SELECT
    t.idCliente, -- customer, uuid
    CAST(t.dtLocal AS DATE) AS dtDia, -- local day
    COUNT(*) AS nrTransacoes, -- transactions
    COUNT(CASE WHEN t.nrPontosTransacao > 0 THEN 1 END) AS nrTransacoesPos, -- transactions that earn points
    COUNT(CASE WHEN t.nrPontosTransacao < 0 THEN 1 END) AS nrTransacoesNeg, -- transactions that spend points
    CAST(SUM(t.nrPontosTransacao) AS BIGINT) AS nrPontos, -- net points
    CAST(SUM(CASE WHEN t.nrPontosTransacao > 0 THEN t.nrPontosTransacao END) AS BIGINT)
        AS nrPontosPos, -- points earned; null = none
    CAST(SUM(CASE WHEN t.nrPontosTransacao < 0 THEN -t.nrPontosTransacao END) AS BIGINT)
        AS nrPontosNeg, -- points spent, as a positive number; null = none
    CAST(SUM(ABS(t.nrPontosTransacao)) AS BIGINT) AS nrPontosAbs, -- points moved, whatever their sign
    MAX(CASE WHEN HOUR(t.dtLocal) <= 12 THEN 1 ELSE 0 END) AS flManha, -- 1 = activity in local hours 0-12
    MAX(CASE WHEN HOUR(t.dtLocal) BETWEEN 13 AND 18 THEN 1 ELSE 0 END) AS flTarde, -- 1 = activity in hours 13-18
    MAX(CASE WHEN HOUR(t.dtLocal) >= 19 THEN 1 ELSE 0 END) AS flNoite, -- 1 = activity in local hours 19-23
    UNIX_MICROS(MAX(t.dtTransacao)) - UNIX_MICROS(MIN(t.dtTransacao))
        AS nrMicrossegundos -- from the first to the last activity of the day, microseconds
FROM transacao AS t
GROUP BY t.idCliente, CAST(t.dtLocal AS DATE)
