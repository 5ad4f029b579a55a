-- Days and hours of a customer's activity in D28, the 28 local days before dtRef; key (dtRef, idCliente).
-- Population: customers with activity in D28. A ratio over nothing is null.
WITH semana AS (
    SELECT
        j.dtRef,
        j.idCliente,
        WEEKOFYEAR(j.dtDia) AS nrSemanaDia,
        COUNT(*) AS nrDias,
        SUM(j.flManha) AS nrDiasManha,
        SUM(j.flTarde) AS nrDiasTarde,
        SUM(j.flNoite) AS nrDiasNoite,
        SUM(j.nrPontos) AS nrPontos,
        SUM(j.nrTransacoes) AS nrTransacoes,
        SUM(j.nrMicrossegundos) AS nrMicrossegundos
    FROM feature_store.upsell._janela AS j
    WHERE j.nrDiasAntes <= 28
    GROUP BY j.dtRef, j.idCliente, WEEKOFYEAR(j.dtDia)
),

janela AS (
    SELECT
        s.dtRef,
        s.idCliente,
        COUNT(*) AS nrSemanas,
        SUM(s.nrDias) AS nrDias,
        SUM(s.nrDiasManha) AS nrDiasManha,
        SUM(s.nrDiasTarde) AS nrDiasTarde,
        SUM(s.nrDiasNoite) AS nrDiasNoite,
        SUM(s.nrPontos) AS nrPontos,
        SUM(s.nrTransacoes) AS nrTransacoes,
        -- Whole microseconds are summed and divided once, so that no engine rounds on the way.
        CAST(SUM(s.nrMicrossegundos) AS DOUBLE) / 60000000 AS nrMinutos
    FROM semana AS s
    GROUP BY s.dtRef, s.idCliente
),

mensagem AS (
    SELECT
        j.dtRef,
        j.idCliente,
        SUM(j.nrTransacoes) AS nrMensagens
    FROM feature_store.upsell._janela_produto AS j
    WHERE j.descSufixo = 'ChatMessage'
    GROUP BY j.dtRef, j.idCliente
)

SELECT -- columns: meaning | unit | window | formula
    -- the day that the features look back from, local
    j.dtRef,
    -- customer, uuid
    j.idCliente,
    -- day of the week of dtRef, 1 = Sunday to 7 = Saturday | weekday 1 to 7 | dtRef
    -- | DATEDIFF(dtRef, DATE'1970-01-04') % 7 + 1
    CAST(DATEDIFF(j.dtRef, DATE'1970-01-04') % 7 + 1 AS BIGINT) AS nrDiaSemana,
    -- day of the month of dtRef | day 1 to 31 | dtRef | DAY(dtRef)
    CAST(DAY(j.dtRef) AS BIGINT) AS nrDiaMes,
    -- ISO week of dtRef, which may be of the year before or after | week 1 to 53 | dtRef | WEEKOFYEAR(dtRef)
    CAST(WEEKOFYEAR(j.dtRef) AS BIGINT) AS nrSemanaAno,
    -- month of dtRef | month 1 to 12 | dtRef | MONTH(dtRef)
    CAST(MONTH(j.dtRef) AS BIGINT) AS nrMes,
    -- calendar year of dtRef | year | dtRef | YEAR(dtRef)
    CAST(YEAR(j.dtRef) AS BIGINT) AS nrAno,
    -- active days | days | D28 | count of distinct local days with a transaction
    CAST(j.nrDias AS BIGINT) AS nrQtdeDias,
    -- days with activity in the morning; 0 = none | days | D28
    -- | count of distinct local days with a transaction in the local hours 0 to 12
    CAST(j.nrDiasManha AS BIGINT) AS nrQtdeDiasManha,
    -- days with activity in the afternoon; 0 = none | days | D28
    -- | count of distinct local days with a transaction in the local hours 13 to 18
    CAST(j.nrDiasTarde AS BIGINT) AS nrQtdeDiasTarde,
    -- days with activity in the evening; 0 = none | days | D28
    -- | count of distinct local days with a transaction in the local hours 19 to 23
    CAST(j.nrDiasNoite AS BIGINT) AS nrQtdeDiasNoite,
    -- of the active days, the share with activity in the morning | share 0 to 1 | D28 | nrQtdeDiasManha / nrQtdeDias
    CAST(j.nrDiasManha AS DOUBLE) / NULLIF(j.nrDias, 0) AS nrPctDiasManha,
    -- of the active days, the share with activity in the afternoon | share 0 to 1 | D28 | nrQtdeDiasTarde / nrQtdeDias
    CAST(j.nrDiasTarde AS DOUBLE) / NULLIF(j.nrDias, 0) AS nrPctDiasTarde,
    -- of the active days, the share with activity in the evening | share 0 to 1 | D28 | nrQtdeDiasNoite / nrQtdeDias
    CAST(j.nrDiasNoite AS DOUBLE) / NULLIF(j.nrDias, 0) AS nrPctDiasNoite,
    -- minutes of activity, from the first to the last of each day | minutes | D28
    -- | sum over the active days of (last transaction - first transaction of the local day), elapsed time, not rounded
    j.nrMinutos AS nrQtdeMinutos,
    -- minutes of activity per active day | minutes per day | D28 | nrQtdeMinutos / nrQtdeDias
    j.nrMinutos / NULLIF(j.nrDias, 0) AS nrAvgMinutosDia,
    -- minutes of activity per week of the window | minutes per week | D28 | nrQtdeMinutos / 4
    j.nrMinutos / 4 AS nrAvgMinutosSemana,
    -- minutes of activity per ISO week with activity | minutes per week | D28
    -- | nrQtdeMinutos / count of distinct ISO week numbers of the active days
    j.nrMinutos / NULLIF(j.nrSemanas, 0) AS nrAvgMinutosSemanaAtiva,
    -- active days per ISO week with activity | days per week | D28
    -- | nrQtdeDias / count of distinct ISO week numbers of the active days
    CAST(j.nrDias AS DOUBLE) / NULLIF(j.nrSemanas, 0) AS nrQtdeLivesSemanal,
    -- net points per minute of activity; null = no minutes or no points | points per minute | D28
    -- | sum of points / nrQtdeMinutos
    CAST(j.nrPontos AS DOUBLE) / NULLIF(j.nrMinutos, 0) AS nrQtdePontosMinuto,
    -- transactions per minute of activity; null = no minutes | transactions per minute | D28
    -- | count of transactions / nrQtdeMinutos
    CAST(j.nrTransacoes AS DOUBLE) / NULLIF(j.nrMinutos, 0) AS nrQtdeTransacoesMinuto,
    -- transactions with 'ChatMessage' per minute of activity; null = no minutes | transactions per minute | D28
    -- | count of transactions with 'ChatMessage' / nrQtdeMinutos
    CAST(COALESCE(m.nrMensagens, 0) AS DOUBLE) / NULLIF(j.nrMinutos, 0) AS nrQtdeMensagemMinuto
FROM janela AS j
LEFT JOIN mensagem AS m ON m.dtRef = j.dtRef AND m.idCliente = j.idCliente
