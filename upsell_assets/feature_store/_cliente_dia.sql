-- One row per customer and local day with activity: what the customer did on that day, and all days up to it (Vida).
-- Lifetime values are running sums, so that a dtRef finds them on the last active day before it, without reading the
-- whole life again. Transactions without a customer or a readable date are in no population and left out.
WITH transacao AS (
    SELECT
        t.idCliente,
        t.dtTransacao,
        t.nrPontosTransacao,
        FROM_UTC_TIMESTAMP(t.dtTransacao, 'America/Sao_Paulo') AS dtLocal
    FROM silver.upsell.transacoes AS t
    WHERE t.idCliente IS NOT NULL AND t.dtTransacao IS NOT NULL
),

dia AS (
    SELECT
        t.idCliente,
        CAST(t.dtLocal AS DATE) AS dtDia,
        COUNT(*) AS nrTransacoes,
        COUNT(CASE WHEN t.nrPontosTransacao > 0 THEN 1 END) AS nrTransacoesPos,
        COUNT(CASE WHEN t.nrPontosTransacao < 0 THEN 1 END) AS nrTransacoesNeg,
        CAST(SUM(t.nrPontosTransacao) AS BIGINT) AS nrPontos,
        CAST(SUM(CASE WHEN t.nrPontosTransacao > 0 THEN t.nrPontosTransacao END) AS BIGINT) AS nrPontosPos,
        CAST(SUM(CASE WHEN t.nrPontosTransacao < 0 THEN -t.nrPontosTransacao END) AS BIGINT) AS nrPontosNeg,
        CAST(SUM(ABS(t.nrPontosTransacao)) AS BIGINT) AS nrPontosAbs,
        MAX(CASE WHEN HOUR(t.dtLocal) <= 12 THEN 1 ELSE 0 END) AS flManha,
        MAX(CASE WHEN HOUR(t.dtLocal) BETWEEN 13 AND 18 THEN 1 ELSE 0 END) AS flTarde,
        MAX(CASE WHEN HOUR(t.dtLocal) >= 19 THEN 1 ELSE 0 END) AS flNoite,
        UNIX_MICROS(MAX(t.dtTransacao)) - UNIX_MICROS(MIN(t.dtTransacao)) AS nrMicrossegundos
    FROM transacao AS t
    GROUP BY t.idCliente, CAST(t.dtLocal AS DATE)
)

SELECT
    d.idCliente, -- customer, uuid
    d.dtDia, -- local day
    d.nrTransacoes, -- transactions
    d.nrTransacoesPos, -- transactions that earn points
    d.nrTransacoesNeg, -- transactions that spend points
    d.nrPontos, -- net points
    d.nrPontosPos, -- points earned; null = none
    d.nrPontosNeg, -- points spent, as a positive number; null = none
    d.nrPontosAbs, -- points moved, whatever their sign
    d.flManha, -- 1 = activity in local hours 0-12
    d.flTarde, -- 1 = activity in local hours 13-18
    d.flNoite, -- 1 = activity in local hours 19-23
    d.nrMicrossegundos, -- from the first to the last activity of the day, microseconds
    MIN(d.dtDia) OVER vida AS dtPrimeiroDia, -- local day of the first activity ever
    COUNT(*) OVER vida AS nrDiasVida, -- active days so far
    CAST(SUM(d.nrTransacoes) OVER vida AS BIGINT) AS nrTransacoesVida, -- transactions so far
    CAST(SUM(d.nrPontos) OVER vida AS BIGINT) AS nrPontosVida, -- net points so far
    CAST(SUM(d.nrPontosPos) OVER vida AS BIGINT) AS nrPontosPosVida, -- points earned so far; null = none
    CAST(SUM(d.nrPontosNeg) OVER vida AS BIGINT) AS nrPontosNegVida -- points spent so far, positive; null = none
FROM dia AS d
WINDOW vida AS (
    PARTITION BY d.idCliente ORDER BY d.dtDia ASC ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
)
