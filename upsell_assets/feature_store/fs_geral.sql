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

SELECT
    a.dtRef, -- the day that the features look back from, local
    a.idCliente, -- customer, uuid
    CAST(a.nrRecencia AS BIGINT) AS nrRecencia, -- days from the last activity in D28 to dtRef
    CAST(a.nrSaldoPontos AS BIGINT) AS nrSaldoPontos, -- sum of points over the life before dtRef
    CAST(a.nrIdadeBase AS BIGINT) AS nrIdadeBase, -- days from the first activity to dtRef
    CAST(h.flEmailCliente AS BIGINT) AS flEmail -- e-mail flag at the end of the day before dtRef; null = not known
FROM atividade AS a
-- At the end of a day at most one state holds; those that end on the day on which they began never do.
LEFT JOIN historico AS h
    ON h.idCliente = a.idCliente AND h.dtInicioDia < a.dtRef AND h.dtFimDia >= a.dtRef
