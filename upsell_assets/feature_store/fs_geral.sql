-- General features of a customer: recency, balance, age and e-mail; key (dtRef, idCliente).
-- Population: customers with activity in the 28 local days before dtRef.
WITH atividade AS (
    SELECT
        j.dtRef,
        j.idCliente,
        MIN(j.nrDiasAntes) AS nrRecencia,
        MAX_BY(j.nrPontosVida, j.dtDia) AS nrSaldoPontos,
        DATEDIFF(j.dtRef, MIN(j.dtPrimeiroDia)) AS nrIdadeBase
    FROM feature_store.upsell._janela AS j
    WHERE j.nrDiasAntes <= 28
    GROUP BY j.dtRef, j.idCliente
),

-- An open state ends on the last day there is: a join on null or later would be no plain range, and 100 times slower.
historico AS (
    SELECT
        h.idCliente,
        h.flEmailCliente,
        CAST(FROM_UTC_TIMESTAMP(h.dtInicio, 'America/Sao_Paulo') AS DATE) AS dtInicioDia,
        COALESCE(CAST(FROM_UTC_TIMESTAMP(h.dtFim, 'America/Sao_Paulo') AS DATE), DATE'9999-12-31') AS dtFimDia
    FROM silver.upsell.cliente_historico AS h
)

SELECT -- columns: meaning | unit | window | formula
    -- the day that the features look back from, local
    a.dtRef,
    -- customer, uuid
    a.idCliente,
    -- days since the last activity | days | D28 | dtRef - local day of the last transaction
    CAST(a.nrRecencia AS BIGINT) AS nrRecencia,
    -- balance, the net points of the life; null = none | points | Vida | sum of points
    CAST(a.nrSaldoPontos AS BIGINT) AS nrSaldoPontos,
    -- days since the first activity | days | Vida | dtRef - local day of the first transaction
    CAST(a.nrIdadeBase AS BIGINT) AS nrIdadeBase,
    -- 1 = has an e-mail address, 0 = has none, null = not known | flag 0 or 1 | Vida
    -- | flEmailCliente of the state that holds in cliente_historico at the end of the local day dtRef - 1
    CAST(h.flEmailCliente AS BIGINT) AS flEmail
FROM atividade AS a
-- At the end of a day at most one state holds; those that end on the day on which they began never do.
LEFT JOIN historico AS h
    ON h.idCliente = a.idCliente AND h.dtInicioDia < a.dtRef AND h.dtFimDia >= a.dtRef
