-- Points of a customer: sums by window and sign, shares of products, means per day and transaction; key
-- (dtRef, idCliente). Dn = the n local days before dtRef, Vida = all before it. A sum over nothing is null, and so is a
-- ratio over nothing. Population: customers with activity in D28.
WITH janela AS (
    SELECT
        j.dtRef,
        j.idCliente,
        SUM(CASE WHEN j.nrDiasAntes <= 7 THEN j.nrPontos END) AS nrQtdePontosD7,
        SUM(CASE WHEN j.nrDiasAntes <= 7 THEN j.nrPontosPos END) AS nrQtdePontosPosD7,
        SUM(CASE WHEN j.nrDiasAntes <= 7 THEN j.nrPontosNeg END) AS nrQtdePontosNegD7,
        SUM(CASE WHEN j.nrDiasAntes <= 28 THEN j.nrPontos END) AS nrQtdePontosD28,
        SUM(CASE WHEN j.nrDiasAntes <= 28 THEN j.nrPontosPos END) AS nrQtdePontosPosD28,
        SUM(CASE WHEN j.nrDiasAntes <= 28 THEN j.nrPontosNeg END) AS nrQtdePontosNegD28,
        SUM(j.nrPontos) AS nrQtdePontosD56,
        SUM(j.nrPontosPos) AS nrQtdePontosPosD56,
        SUM(j.nrPontosNeg) AS nrQtdePontosNegD56,
        MAX_BY(j.nrPontosVida, j.dtDia) AS nrQtdePontosVida,
        MAX_BY(j.nrPontosPosVida, j.dtDia) AS nrQtdePontosPosVida,
        MAX_BY(j.nrPontosNegVida, j.dtDia) AS nrQtdePontosNegVida,
        SUM(CASE WHEN j.nrDiasAntes <= 28 THEN j.nrPontosAbs END) AS nrPontosAbs,
        COUNT(CASE WHEN j.nrDiasAntes <= 28 THEN 1 END) AS nrDias,
        COUNT(CASE WHEN j.nrDiasAntes <= 28 AND j.nrTransacoesPos > 0 THEN 1 END) AS nrDiasPos,
        COUNT(CASE WHEN j.nrDiasAntes <= 28 AND j.nrTransacoesNeg > 0 THEN 1 END) AS nrDiasNeg,
        SUM(CASE WHEN j.nrDiasAntes <= 28 THEN j.nrTransacoes END) AS nrTransacoes,
        SUM(CASE WHEN j.nrDiasAntes <= 28 THEN j.nrTransacoesPos END) AS nrTransacoesPos,
        SUM(CASE WHEN j.nrDiasAntes <= 28 THEN j.nrTransacoesNeg END) AS nrTransacoesNeg
    FROM feature_store.upsell._janela AS j
    GROUP BY j.dtRef, j.idCliente
    HAVING MIN(j.nrDiasAntes) <= 28
),

produto AS (
    SELECT
        r.dtRef,
        c.idCliente,
        SUM(CASE WHEN c.descSufixo = 'AirflowLover' THEN c.nrPontosAbs END) AS nrPontosAirflowLover,
        SUM(CASE WHEN c.descSufixo = 'ChatMessage' THEN c.nrPontosAbs END) AS nrPontosChatMessage,
        SUM(CASE WHEN c.descSufixo = 'Churn10pp' THEN c.nrPontosAbs END) AS nrPontosChurn10pp,
        SUM(CASE WHEN c.descSufixo = 'Churn2pp' THEN c.nrPontosAbs END) AS nrPontosChurn2pp,
        SUM(CASE WHEN c.descSufixo = 'Churn5pp' THEN c.nrPontosAbs END) AS nrPontosChurn5pp,
        SUM(CASE WHEN c.descSufixo = 'DailyLoot' THEN c.nrPontosAbs END) AS nrPontosDailyLoot,
        SUM(CASE WHEN c.descSufixo = 'ListaPresenca' THEN c.nrPontosAbs END) AS nrPontosListaPresenca,
        SUM(CASE WHEN c.descSufixo = 'PresencaStreak' THEN c.nrPontosAbs END) AS nrPontosPresencaStreak,
        SUM(CASE WHEN c.descSufixo = 'RLover' THEN c.nrPontosAbs END) AS nrPontosRLover,
        SUM(CASE WHEN c.descSufixo = 'ResgatarPonei' THEN c.nrPontosAbs END) AS nrPontosResgatarPonei,
        SUM(CASE WHEN c.descSufixo = 'TrocaStreamElements' THEN c.nrPontosAbs END) AS nrPontosTrocaStreamElements,
        SUM(CASE WHEN c.descSufixo = 'VendaItemRPG' THEN c.nrPontosAbs END) AS nrPontosVendaItemRPG
    FROM dtrefs AS r
    INNER JOIN feature_store.upsell._cliente_dia_produto AS c
        ON c.dtDia >= DATE_SUB(r.dtRef, 28) AND c.dtDia < r.dtRef
    GROUP BY r.dtRef, c.idCliente
)

SELECT
    j.dtRef, -- the day that the features look back from, local
    j.idCliente, -- customer, uuid
    CAST(j.nrQtdePontosD7 AS BIGINT) AS nrQtdePontosD7, -- sum of points in D7; null = none
    CAST(j.nrQtdePontosPosD7 AS BIGINT) AS nrQtdePontosPosD7, -- points earned in D7; null = none
    CAST(j.nrQtdePontosNegD7 AS BIGINT) AS nrQtdePontosNegD7, -- points spent, as a positive number in D7; null = none
    CAST(j.nrQtdePontosD28 AS BIGINT) AS nrQtdePontosD28, -- sum of points in D28; null = none
    CAST(j.nrQtdePontosPosD28 AS BIGINT) AS nrQtdePontosPosD28, -- points earned in D28; null = none
    CAST(j.nrQtdePontosNegD28 AS BIGINT)
        AS nrQtdePontosNegD28, -- points spent, as a positive number in D28; null = none
    CAST(j.nrQtdePontosD56 AS BIGINT) AS nrQtdePontosD56, -- sum of points in D56; null = none
    CAST(j.nrQtdePontosPosD56 AS BIGINT) AS nrQtdePontosPosD56, -- points earned in D56; null = none
    CAST(j.nrQtdePontosNegD56 AS BIGINT)
        AS nrQtdePontosNegD56, -- points spent, as a positive number in D56; null = none
    CAST(j.nrQtdePontosVida AS BIGINT) AS nrQtdePontosVida, -- sum of points over the life before dtRef; null = none
    CAST(j.nrQtdePontosPosVida AS BIGINT)
        AS nrQtdePontosPosVida, -- points earned over the life before dtRef; null = none
    CAST(j.nrQtdePontosNegVida AS BIGINT)
        AS nrQtdePontosNegVida, -- points spent, as a positive number over the life before dtRef; null = none
    CAST(p.nrPontosAirflowLover AS BIGINT)
        AS nrQtdePontosAirflowLover, -- absolute points with 'Airflow Lover' in D28; null = none
    CAST(p.nrPontosAirflowLover AS DOUBLE) / NULLIF(j.nrPontosAbs, 0)
        AS nrPctPontosAirflowLover, -- that, of the absolute points of D28, 0 to 1
    CAST(p.nrPontosChatMessage AS BIGINT)
        AS nrQtdePontosChatMessage, -- absolute points with 'ChatMessage' in D28; null = none
    CAST(p.nrPontosChatMessage AS DOUBLE) / NULLIF(j.nrPontosAbs, 0)
        AS nrPctPontosChatMessage, -- that, of the absolute points of D28, 0 to 1
    CAST(p.nrPontosChurn10pp AS BIGINT)
        AS nrQtdePontosChurn10pp, -- absolute points with 'Churn_10pp' in D28; null = none
    CAST(p.nrPontosChurn10pp AS DOUBLE) / NULLIF(j.nrPontosAbs, 0)
        AS nrPctPontosChurn10pp, -- that, of the absolute points of D28, 0 to 1
    CAST(p.nrPontosChurn2pp AS BIGINT) AS nrQtdePontosChurn2pp, -- absolute points with 'Churn_2pp' in D28; null = none
    CAST(p.nrPontosChurn2pp AS DOUBLE) / NULLIF(j.nrPontosAbs, 0)
        AS nrPctPontosChurn2pp, -- that, of the absolute points of D28, 0 to 1
    CAST(p.nrPontosChurn5pp AS BIGINT) AS nrQtdePontosChurn5pp, -- absolute points with 'Churn_5pp' in D28; null = none
    CAST(p.nrPontosChurn5pp AS DOUBLE) / NULLIF(j.nrPontosAbs, 0)
        AS nrPctPontosChurn5pp, -- that, of the absolute points of D28, 0 to 1
    CAST(p.nrPontosDailyLoot AS BIGINT)
        AS nrQtdePontosDailyLoot, -- absolute points with 'Daily Loot' in D28; null = none
    CAST(p.nrPontosDailyLoot AS DOUBLE) / NULLIF(j.nrPontosAbs, 0)
        AS nrPctPontosDailyLoot, -- that, of the absolute points of D28, 0 to 1
    CAST(p.nrPontosListaPresenca AS BIGINT)
        AS nrQtdePontosListaPresenca, -- absolute points with 'Lista de presença' in D28; null = none
    CAST(p.nrPontosListaPresenca AS DOUBLE) / NULLIF(j.nrPontosAbs, 0)
        AS nrPctPontosListaPresenca, -- that, of the absolute points of D28, 0 to 1
    CAST(p.nrPontosPresencaStreak AS BIGINT)
        AS nrQtdePontosPresencaStreak, -- absolute points with 'Presença Streak' in D28; null = none
    CAST(p.nrPontosPresencaStreak AS DOUBLE) / NULLIF(j.nrPontosAbs, 0)
        AS nrPctPontosPresencaStreak, -- that, of the absolute points of D28, 0 to 1
    CAST(p.nrPontosRLover AS BIGINT) AS nrQtdePontosRLover, -- absolute points with 'R Lover' in D28; null = none
    CAST(p.nrPontosRLover AS DOUBLE) / NULLIF(j.nrPontosAbs, 0)
        AS nrPctPontosRLover, -- that, of the absolute points of D28, 0 to 1
    CAST(p.nrPontosResgatarPonei AS BIGINT)
        AS nrQtdePontosResgatarPonei, -- absolute points with 'Resgatar Ponei' in D28; null = none
    CAST(p.nrPontosResgatarPonei AS DOUBLE) / NULLIF(j.nrPontosAbs, 0)
        AS nrPctPontosResgatarPonei, -- that, of the absolute points of D28, 0 to 1
    CAST(p.nrPontosTrocaStreamElements AS BIGINT)
        AS nrQtdePontosTrocaStreamElements, -- absolute points with 'Troca de Pontos StreamElements' in D28; null = none
    CAST(p.nrPontosTrocaStreamElements AS DOUBLE) / NULLIF(j.nrPontosAbs, 0)
        AS nrPctPontosTrocaStreamElements, -- that, of the absolute points of D28, 0 to 1
    CAST(p.nrPontosVendaItemRPG AS BIGINT)
        AS nrQtdePontosVendaItemRPG, -- absolute points with a product 'Venda de Item: ...' in D28; null = none
    CAST(p.nrPontosVendaItemRPG AS DOUBLE) / NULLIF(j.nrPontosAbs, 0)
        AS nrPctPontosVendaItemRPG, -- that, of the absolute points of D28, 0 to 1
    CAST(j.nrQtdePontosD28 AS DOUBLE) / NULLIF(j.nrDias, 0) AS nrQtdePontosDia, -- net points per active day in D28
    CAST(j.nrPontosAbs AS DOUBLE) / NULLIF(j.nrDias, 0)
        AS nrQtdePontosGeralDia, -- absolute points per active day in D28
    CAST(j.nrQtdePontosPosD28 AS DOUBLE) / NULLIF(j.nrDiasPos, 0)
        AS nrQtdePontosPosDia, -- points earned per day on which some were, in D28
    CAST(j.nrQtdePontosNegD28 AS DOUBLE) / NULLIF(j.nrDiasNeg, 0)
        AS nrQtdePontosNegDia, -- points spent per day on which some were, in D28
    CAST(j.nrQtdePontosD28 AS DOUBLE) / NULLIF(j.nrTransacoes, 0)
        AS nrQtdePontosTransacao, -- net points per transaction in D28
    CAST(j.nrPontosAbs AS DOUBLE) / NULLIF(j.nrTransacoes, 0)
        AS nrQtdePontosGeralTransacao, -- absolute points per transaction in D28
    CAST(j.nrQtdePontosPosD28 AS DOUBLE) / NULLIF(j.nrTransacoesPos, 0)
        AS nrQtdePontosPosTransacao, -- points earned per earning transaction in D28
    CAST(j.nrQtdePontosNegD28 AS DOUBLE) / NULLIF(j.nrTransacoesNeg, 0)
        AS nrQtdePontosNegTransacao -- points spent per spending transaction in D28
FROM janela AS j
LEFT JOIN produto AS p ON p.dtRef = j.dtRef AND p.idCliente = j.idCliente
