-- One row per customer and local day with activity: what the customer did on that day, and all days up to it (Vida).
-- Lifetime values are running sums, so that a dtRef finds them on the last active day before it, without reading the
-- whole life again.
SELECT
    d.*, -- of that day
    MIN(d.dtDia) OVER vida AS dtPrimeiroDia, -- local day of the first activity ever
    COUNT(*) OVER vida AS nrDiasVida, -- active days so far
    CAST(SUM(d.nrTransacoes) OVER vida AS BIGINT) AS nrTransacoesVida, -- transactions so far
    CAST(SUM(d.nrPontos) OVER vida AS BIGINT) AS nrPontosVida, -- net points so far
    CAST(SUM(d.nrPontosPos) OVER vida AS BIGINT) AS nrPontosPosVida, -- points earned so far; null = none
    CAST(SUM(d.nrPontosNeg) OVER vida AS BIGINT) AS nrPontosNegVida -- points spent so far, positive; null = none
FROM feature_store.upsell._dia AS d
WINDOW vida AS (
    PARTITION BY d.idCliente ORDER BY d.dtDia ASC ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
)
