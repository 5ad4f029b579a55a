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
        j.dtRef,
        j.idCliente,
        SUM(CASE WHEN j.descSufixo = 'AirflowLover' THEN j.nrPontosAbs END) AS nrPontosAirflowLover,
        SUM(CASE WHEN j.descSufixo = 'ChatMessage' THEN j.nrPontosAbs END) AS nrPontosChatMessage,
        SUM(CASE WHEN j.descSufixo = 'Churn10pp' THEN j.nrPontosAbs END) AS nrPontosChurn10pp,
        SUM(CASE WHEN j.descSufixo = 'Churn2pp' THEN j.nrPontosAbs END) AS nrPontosChurn2pp,
        SUM(CASE WHEN j.descSufixo = 'Churn5pp' THEN j.nrPontosAbs END) AS nrPontosChurn5pp,
        SUM(CASE WHEN j.descSufixo = 'DailyLoot' THEN j.nrPontosAbs END) AS nrPontosDailyLoot,
        SUM(CASE WHEN j.descSufixo = 'ListaPresenca' THEN j.nrPontosAbs END) AS nrPontosListaPresenca,
        SUM(CASE WHEN j.descSufixo = 'PresencaStreak' THEN j.nrPontosAbs END) AS nrPontosPresencaStreak,
        SUM(CASE WHEN j.descSufixo = 'RLover' THEN j.nrPontosAbs END) AS nrPontosRLover,
        SUM(CASE WHEN j.descSufixo = 'ResgatarPonei' THEN j.nrPontosAbs END) AS nrPontosResgatarPonei,
        SUM(CASE WHEN j.descSufixo = 'TrocaStreamElements' THEN j.nrPontosAbs END) AS nrPontosTrocaStreamElements,
        SUM(CASE WHEN j.descSufixo = 'VendaItemRPG' THEN j.nrPontosAbs END) AS nrPontosVendaItemRPG
    FROM feature_store.upsell._janela_produto AS j
    GROUP BY j.dtRef, j.idCliente
)

SELECT -- columns: meaning | unit | window | formula
    -- the day that the features look back from, local
    j.dtRef,
    -- customer, uuid
    j.idCliente,
    -- net points; null = none | points | D7 | sum of points
    CAST(j.nrQtdePontosD7 AS BIGINT) AS nrQtdePontosD7,
    -- points earned; null = none | points | D7 | sum of points where points > 0
    CAST(j.nrQtdePontosPosD7 AS BIGINT) AS nrQtdePontosPosD7,
    -- points spent, as a positive number; null = none | points | D7 | sum of -points where points < 0
    CAST(j.nrQtdePontosNegD7 AS BIGINT) AS nrQtdePontosNegD7,
    -- net points; null = none | points | D28 | sum of points
    CAST(j.nrQtdePontosD28 AS BIGINT) AS nrQtdePontosD28,
    -- points earned; null = none | points | D28 | sum of points where points > 0
    CAST(j.nrQtdePontosPosD28 AS BIGINT) AS nrQtdePontosPosD28,
    -- points spent, as a positive number; null = none | points | D28 | sum of -points where points < 0
    CAST(j.nrQtdePontosNegD28 AS BIGINT) AS nrQtdePontosNegD28,
    -- net points; null = none | points | D56 | sum of points
    CAST(j.nrQtdePontosD56 AS BIGINT) AS nrQtdePontosD56,
    -- points earned; null = none | points | D56 | sum of points where points > 0
    CAST(j.nrQtdePontosPosD56 AS BIGINT) AS nrQtdePontosPosD56,
    -- points spent, as a positive number; null = none | points | D56 | sum of -points where points < 0
    CAST(j.nrQtdePontosNegD56 AS BIGINT) AS nrQtdePontosNegD56,
    -- net points; null = none | points | Vida | sum of points
    CAST(j.nrQtdePontosVida AS BIGINT) AS nrQtdePontosVida,
    -- points earned; null = none | points | Vida | sum of points where points > 0
    CAST(j.nrQtdePontosPosVida AS BIGINT) AS nrQtdePontosPosVida,
    -- points spent, as a positive number; null = none | points | Vida | sum of -points where points < 0
    CAST(j.nrQtdePontosNegVida AS BIGINT) AS nrQtdePontosNegVida,
    -- points moved with 'Airflow Lover'; null = none | points | D28
    -- | sum of ABS(points) of the transactions with 'Airflow Lover'
    CAST(p.nrPontosAirflowLover AS BIGINT) AS nrQtdePontosAirflowLover,
    -- of the points moved, the share with 'Airflow Lover'; null = none | share 0 to 1 | D28
    -- | nrQtdePontosAirflowLover / sum of ABS(points)
    CAST(p.nrPontosAirflowLover AS DOUBLE) / NULLIF(j.nrPontosAbs, 0) AS nrPctPontosAirflowLover,
    -- points moved with 'ChatMessage'; null = none | points | D28
    -- | sum of ABS(points) of the transactions with 'ChatMessage'
    CAST(p.nrPontosChatMessage AS BIGINT) AS nrQtdePontosChatMessage,
    -- of the points moved, the share with 'ChatMessage'; null = none | share 0 to 1 | D28
    -- | nrQtdePontosChatMessage / sum of ABS(points)
    CAST(p.nrPontosChatMessage AS DOUBLE) / NULLIF(j.nrPontosAbs, 0) AS nrPctPontosChatMessage,
    -- points moved with 'Churn_10pp'; null = none | points | D28
    -- | sum of ABS(points) of the transactions with 'Churn_10pp'
    CAST(p.nrPontosChurn10pp AS BIGINT) AS nrQtdePontosChurn10pp,
    -- of the points moved, the share with 'Churn_10pp'; null = none | share 0 to 1 | D28
    -- | nrQtdePontosChurn10pp / sum of ABS(points)
    CAST(p.nrPontosChurn10pp AS DOUBLE) / NULLIF(j.nrPontosAbs, 0) AS nrPctPontosChurn10pp,
    -- points moved with 'Churn_2pp'; null = none | points | D28
    -- | sum of ABS(points) of the transactions with 'Churn_2pp'
    CAST(p.nrPontosChurn2pp AS BIGINT) AS nrQtdePontosChurn2pp,
    -- of the points moved, the share with 'Churn_2pp'; null = none | share 0 to 1 | D28
    -- | nrQtdePontosChurn2pp / sum of ABS(points)
    CAST(p.nrPontosChurn2pp AS DOUBLE) / NULLIF(j.nrPontosAbs, 0) AS nrPctPontosChurn2pp,
    -- points moved with 'Churn_5pp'; null = none | points | D28
    -- | sum of ABS(points) of the transactions with 'Churn_5pp'
    CAST(p.nrPontosChurn5pp AS BIGINT) AS nrQtdePontosChurn5pp,
    -- of the points moved, the share with 'Churn_5pp'; null = none | share 0 to 1 | D28
    -- | nrQtdePontosChurn5pp / sum of ABS(points)
    CAST(p.nrPontosChurn5pp AS DOUBLE) / NULLIF(j.nrPontosAbs, 0) AS nrPctPontosChurn5pp,
    -- points moved with 'Daily Loot'; null = none | points | D28
    -- | sum of ABS(points) of the transactions with 'Daily Loot'
    CAST(p.nrPontosDailyLoot AS BIGINT) AS nrQtdePontosDailyLoot,
    -- of the points moved, the share with 'Daily Loot'; null = none | share 0 to 1 | D28
    -- | nrQtdePontosDailyLoot / sum of ABS(points)
    CAST(p.nrPontosDailyLoot AS DOUBLE) / NULLIF(j.nrPontosAbs, 0) AS nrPctPontosDailyLoot,
    -- points moved with 'Lista de presença'; null = none | points | D28
    -- | sum of ABS(points) of the transactions with 'Lista de presença'
    CAST(p.nrPontosListaPresenca AS BIGINT) AS nrQtdePontosListaPresenca,
    -- of the points moved, the share with 'Lista de presença'; null = none | share 0 to 1 | D28
    -- | nrQtdePontosListaPresenca / sum of ABS(points)
    CAST(p.nrPontosListaPresenca AS DOUBLE) / NULLIF(j.nrPontosAbs, 0) AS nrPctPontosListaPresenca,
    -- points moved with 'Presença Streak'; null = none | points | D28
    -- | sum of ABS(points) of the transactions with 'Presença Streak'
    CAST(p.nrPontosPresencaStreak AS BIGINT) AS nrQtdePontosPresencaStreak,
    -- of the points moved, the share with 'Presença Streak'; null = none | share 0 to 1 | D28
    -- | nrQtdePontosPresencaStreak / sum of ABS(points)
    CAST(p.nrPontosPresencaStreak AS DOUBLE) / NULLIF(j.nrPontosAbs, 0) AS nrPctPontosPresencaStreak,
    -- points moved with 'R Lover'; null = none | points | D28 | sum of ABS(points) of the transactions with 'R Lover'
    CAST(p.nrPontosRLover AS BIGINT) AS nrQtdePontosRLover,
    -- of the points moved, the share with 'R Lover'; null = none | share 0 to 1 | D28
    -- | nrQtdePontosRLover / sum of ABS(points)
    CAST(p.nrPontosRLover AS DOUBLE) / NULLIF(j.nrPontosAbs, 0) AS nrPctPontosRLover,
    -- points moved with 'Resgatar Ponei'; null = none | points | D28
    -- | sum of ABS(points) of the transactions with 'Resgatar Ponei'
    CAST(p.nrPontosResgatarPonei AS BIGINT) AS nrQtdePontosResgatarPonei,
    -- of the points moved, the share with 'Resgatar Ponei'; null = none | share 0 to 1 | D28
    -- | nrQtdePontosResgatarPonei / sum of ABS(points)
    CAST(p.nrPontosResgatarPonei AS DOUBLE) / NULLIF(j.nrPontosAbs, 0) AS nrPctPontosResgatarPonei,
    -- points moved with 'Troca de Pontos StreamElements'; null = none | points | D28
    -- | sum of ABS(points) of the transactions with 'Troca de Pontos StreamElements'
    CAST(p.nrPontosTrocaStreamElements AS BIGINT) AS nrQtdePontosTrocaStreamElements,
    -- of the points moved, the share with 'Troca de Pontos StreamElements'; null = none | share 0 to 1 | D28
    -- | nrQtdePontosTrocaStreamElements / sum of ABS(points)
    CAST(p.nrPontosTrocaStreamElements AS DOUBLE) / NULLIF(j.nrPontosAbs, 0) AS nrPctPontosTrocaStreamElements,
    -- points moved with 'Venda de Item: ...'; null = none | points | D28
    -- | sum of ABS(points) of the transactions with a product whose name contains 'Venda de Item: '
    CAST(p.nrPontosVendaItemRPG AS BIGINT) AS nrQtdePontosVendaItemRPG,
    -- of the points moved, the share with 'Venda de Item: ...'; null = none | share 0 to 1 | D28
    -- | nrQtdePontosVendaItemRPG / sum of ABS(points)
    CAST(p.nrPontosVendaItemRPG AS DOUBLE) / NULLIF(j.nrPontosAbs, 0) AS nrPctPontosVendaItemRPG,
    -- net points per active day; null = none | points per day | D28 | nrQtdePontosD28 / active days
    CAST(j.nrQtdePontosD28 AS DOUBLE) / NULLIF(j.nrDias, 0) AS nrQtdePontosDia,
    -- points moved per active day; null = none | points per day | D28 | sum of ABS(points) / active days
    CAST(j.nrPontosAbs AS DOUBLE) / NULLIF(j.nrDias, 0) AS nrQtdePontosGeralDia,
    -- points earned per day on which some were; null = none | points per day | D28
    -- | nrQtdePontosPosD28 / local days with a transaction where points > 0
    CAST(j.nrQtdePontosPosD28 AS DOUBLE) / NULLIF(j.nrDiasPos, 0) AS nrQtdePontosPosDia,
    -- points spent, positive, per day on which some were; null = none | points per day | D28
    -- | nrQtdePontosNegD28 / local days with a transaction where points < 0
    CAST(j.nrQtdePontosNegD28 AS DOUBLE) / NULLIF(j.nrDiasNeg, 0) AS nrQtdePontosNegDia,
    -- net points per transaction; null = none | points per transaction | D28 | nrQtdePontosD28 / transactions
    CAST(j.nrQtdePontosD28 AS DOUBLE) / NULLIF(j.nrTransacoes, 0) AS nrQtdePontosTransacao,
    -- points moved per transaction; null = none | points per transaction | D28 | sum of ABS(points) / transactions
    CAST(j.nrPontosAbs AS DOUBLE) / NULLIF(j.nrTransacoes, 0) AS nrQtdePontosGeralTransacao,
    -- points earned per earning transaction; null = none | points per transaction | D28
    -- | nrQtdePontosPosD28 / transactions where points > 0
    CAST(j.nrQtdePontosPosD28 AS DOUBLE) / NULLIF(j.nrTransacoesPos, 0) AS nrQtdePontosPosTransacao,
    -- points spent, positive, per spending transaction; null = none | points per transaction | D28
    -- | nrQtdePontosNegD28 / transactions where points < 0
    CAST(j.nrQtdePontosNegD28 AS DOUBLE) / NULLIF(j.nrTransacoesNeg, 0) AS nrQtdePontosNegTransacao
FROM janela AS j
LEFT JOIN produto AS p ON p.dtRef = j.dtRef AND p.idCliente = j.idCliente
