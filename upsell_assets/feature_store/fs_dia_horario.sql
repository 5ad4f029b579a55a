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
        r.dtRef,
        c.idCliente,
        SUM(c.nrTransacoes) AS nrMensagens
    FROM dtrefs AS r
    INNER JOIN feature_store.upsell._cliente_dia_produto AS c
        ON c.dtDia >= DATE_SUB(r.dtRef, 28) AND c.dtDia < r.dtRef
    WHERE c.descSufixo = 'ChatMessage'
    GROUP BY r.dtRef, c.idCliente
)

SELECT
    j.dtRef, -- the day that the features look back from, local
    j.idCliente, -- customer, uuid
    CAST(DATEDIFF(j.dtRef, DATE'1970-01-04') % 7 + 1 AS BIGINT)
        AS nrDiaSemana, -- day of the week of dtRef, 1 = Sunday .. 7 = Saturday
    CAST(DAY(j.dtRef) AS BIGINT) AS nrDiaMes, -- day of the month of dtRef
    CAST(WEEKOFYEAR(j.dtRef) AS BIGINT) AS nrSemanaAno, -- ISO week of dtRef
    CAST(MONTH(j.dtRef) AS BIGINT) AS nrMes, -- month of dtRef
    CAST(YEAR(j.dtRef) AS BIGINT) AS nrAno, -- year of dtRef
    CAST(j.nrDias AS BIGINT) AS nrQtdeDias, -- active days in D28
    CAST(j.nrDiasManha AS BIGINT) AS nrQtdeDiasManha, -- of them, days with activity in local hours 0-12
    CAST(j.nrDiasTarde AS BIGINT) AS nrQtdeDiasTarde, -- of them, days with activity in local hours 13-18
    CAST(j.nrDiasNoite AS BIGINT) AS nrQtdeDiasNoite, -- of them, days with activity in local hours 19-23
    CAST(j.nrDiasManha AS DOUBLE) / NULLIF(j.nrDias, 0)
        AS nrPctDiasManha, -- share of the active days with activity in local hours 0-12, 0 to 1
    CAST(j.nrDiasTarde AS DOUBLE) / NULLIF(j.nrDias, 0)
        AS nrPctDiasTarde, -- share of the active days with activity in local hours 13-18, 0 to 1
    CAST(j.nrDiasNoite AS DOUBLE) / NULLIF(j.nrDias, 0)
        AS nrPctDiasNoite, -- share of the active days with activity in local hours 19-23, 0 to 1
    j.nrMinutos AS nrQtdeMinutos, -- minutes from the first to the last activity of a day, summed over D28
    j.nrMinutos / NULLIF(j.nrDias, 0) AS nrAvgMinutosDia, -- those minutes per active day
    j.nrMinutos / 4 AS nrAvgMinutosSemana, -- those minutes per week of D28
    j.nrMinutos / NULLIF(j.nrSemanas, 0) AS nrAvgMinutosSemanaAtiva, -- those minutes per ISO week with activity
    CAST(j.nrDias AS DOUBLE) / NULLIF(j.nrSemanas, 0) AS nrQtdeLivesSemanal, -- active days per ISO week with activity
    CAST(j.nrPontos AS DOUBLE) / NULLIF(j.nrMinutos, 0) AS nrQtdePontosMinuto, -- net points of D28 per such minute
    CAST(j.nrTransacoes AS DOUBLE) / NULLIF(j.nrMinutos, 0)
        AS nrQtdeTransacoesMinuto, -- transactions of D28 per such minute
    CAST(COALESCE(m.nrMensagens, 0) AS DOUBLE) / NULLIF(j.nrMinutos, 0)
        AS nrQtdeMensagemMinuto -- transactions with 'ChatMessage' of D28 per such minute
FROM janela AS j
LEFT JOIN mensagem AS m ON m.dtRef = j.dtRef AND m.idCliente = j.idCliente
