-- Transactions of a customer: counts by window, per active day, and by product; key (dtRef, idCliente).
-- Dn = the n local days before dtRef, Vida = all before it. A transaction counts once, however many lines its cart has.
-- Population: customers with activity in D28.
WITH janela AS (
    SELECT
        j.dtRef,
        j.idCliente,
        SUM(CASE WHEN j.nrDiasAntes <= 7 THEN j.nrTransacoes ELSE 0 END) AS nrTransacoesD7,
        SUM(CASE WHEN j.nrDiasAntes <= 28 THEN j.nrTransacoes ELSE 0 END) AS nrTransacoesD28,
        SUM(j.nrTransacoes) AS nrTransacoesD56,
        MAX_BY(j.nrTransacoesVida, j.dtDia) AS nrTransacoesVida,
        COUNT(CASE WHEN j.nrDiasAntes <= 7 THEN 1 END) AS nrDiasD7,
        COUNT(CASE WHEN j.nrDiasAntes <= 28 THEN 1 END) AS nrDiasD28,
        COUNT(*) AS nrDiasD56,
        MAX_BY(j.nrDiasVida, j.dtDia) AS nrDiasVida
    FROM feature_store.upsell._janela AS j
    GROUP BY j.dtRef, j.idCliente
    HAVING MIN(j.nrDiasAntes) <= 28
),

produto AS (
    SELECT
        j.dtRef,
        j.idCliente,
        SUM(CASE WHEN j.descSufixo = 'AirflowLover' THEN j.nrTransacoes END) AS nrTransacoesAirflowLover,
        SUM(CASE WHEN j.descSufixo = 'ChatMessage' THEN j.nrTransacoes END) AS nrTransacoesChatMessage,
        SUM(CASE WHEN j.descSufixo = 'Churn10pp' THEN j.nrTransacoes END) AS nrTransacoesChurn10pp,
        SUM(CASE WHEN j.descSufixo = 'Churn2pp' THEN j.nrTransacoes END) AS nrTransacoesChurn2pp,
        SUM(CASE WHEN j.descSufixo = 'Churn5pp' THEN j.nrTransacoes END) AS nrTransacoesChurn5pp,
        SUM(CASE WHEN j.descSufixo = 'DailyLoot' THEN j.nrTransacoes END) AS nrTransacoesDailyLoot,
        SUM(CASE WHEN j.descSufixo = 'ListaPresenca' THEN j.nrTransacoes END) AS nrTransacoesListaPresenca,
        SUM(CASE WHEN j.descSufixo = 'PresencaStreak' THEN j.nrTransacoes END) AS nrTransacoesPresencaStreak,
        SUM(CASE WHEN j.descSufixo = 'RLover' THEN j.nrTransacoes END) AS nrTransacoesRLover,
        SUM(CASE WHEN j.descSufixo = 'ResgatarPonei' THEN j.nrTransacoes END) AS nrTransacoesResgatarPonei,
        SUM(CASE WHEN j.descSufixo = 'TrocaStreamElements' THEN j.nrTransacoes END) AS nrTransacoesTrocaStreamElements,
        SUM(CASE WHEN j.descSufixo = 'VendaItemRPG' THEN j.nrTransacoes END) AS nrTransacoesVendaItemRPG
    FROM feature_store.upsell._janela_produto AS j
    GROUP BY j.dtRef, j.idCliente
)

SELECT -- columns: meaning | unit | window | formula
    -- the day that the features look back from, local
    j.dtRef,
    -- customer, uuid
    j.idCliente,
    -- transactions; 0 = none | transactions | D7 | count of transactions
    CAST(j.nrTransacoesD7 AS BIGINT) AS nrQtdeTransacaoD7,
    -- transactions | transactions | D28 | count of transactions
    CAST(j.nrTransacoesD28 AS BIGINT) AS nrQtdeTransacaoD28,
    -- transactions | transactions | D56 | count of transactions
    CAST(j.nrTransacoesD56 AS BIGINT) AS nrQtdeTransacaoD56,
    -- transactions | transactions | Vida | count of transactions
    CAST(j.nrTransacoesVida AS BIGINT) AS nrQtdeTransacaoVida,
    -- transactions per active day; null = none | transactions per day | D7 | nrQtdeTransacaoD7 / active days
    CAST(j.nrTransacoesD7 AS DOUBLE) / NULLIF(j.nrDiasD7, 0) AS nrQtdeTransacaoDiaD7,
    -- transactions per active day | transactions per day | D28 | nrQtdeTransacaoD28 / active days
    CAST(j.nrTransacoesD28 AS DOUBLE) / NULLIF(j.nrDiasD28, 0) AS nrQtdeTransacaoDiaD28,
    -- transactions per active day | transactions per day | D56 | nrQtdeTransacaoD56 / active days
    CAST(j.nrTransacoesD56 AS DOUBLE) / NULLIF(j.nrDiasD56, 0) AS nrQtdeTransacaoDiaD56,
    -- transactions per active day | transactions per day | Vida | nrQtdeTransacaoVida / active days
    CAST(j.nrTransacoesVida AS DOUBLE) / NULLIF(j.nrDiasVida, 0) AS nrQtdeTransacaoDiaVida,
    -- transactions with 'Airflow Lover'; 0 = none | transactions | D28 | count of transactions with 'Airflow Lover'
    CAST(COALESCE(p.nrTransacoesAirflowLover, 0) AS BIGINT) AS nrQtdTransacaoAirflowLover,
    -- of the transactions, the share with 'Airflow Lover'; 0 = none | share 0 to 1 | D28
    -- | nrQtdTransacaoAirflowLover / nrQtdeTransacaoD28
    CAST(COALESCE(p.nrTransacoesAirflowLover, 0) AS DOUBLE) / NULLIF(j.nrTransacoesD28, 0)
        AS nrPctTransacaoAirflowLover,
    -- transactions with 'ChatMessage'; 0 = none | transactions | D28 | count of transactions with 'ChatMessage'
    CAST(COALESCE(p.nrTransacoesChatMessage, 0) AS BIGINT) AS nrQtdTransacaoChatMessage,
    -- of the transactions, the share with 'ChatMessage'; 0 = none | share 0 to 1 | D28
    -- | nrQtdTransacaoChatMessage / nrQtdeTransacaoD28
    CAST(COALESCE(p.nrTransacoesChatMessage, 0) AS DOUBLE) / NULLIF(j.nrTransacoesD28, 0) AS nrPctTransacaoChatMessage,
    -- transactions with 'Churn_10pp'; 0 = none | transactions | D28 | count of transactions with 'Churn_10pp'
    CAST(COALESCE(p.nrTransacoesChurn10pp, 0) AS BIGINT) AS nrQtdTransacaoChurn10pp,
    -- of the transactions, the share with 'Churn_10pp'; 0 = none | share 0 to 1 | D28
    -- | nrQtdTransacaoChurn10pp / nrQtdeTransacaoD28
    CAST(COALESCE(p.nrTransacoesChurn10pp, 0) AS DOUBLE) / NULLIF(j.nrTransacoesD28, 0) AS nrPctTransacaoChurn10pp,
    -- transactions with 'Churn_2pp'; 0 = none | transactions | D28 | count of transactions with 'Churn_2pp'
    CAST(COALESCE(p.nrTransacoesChurn2pp, 0) AS BIGINT) AS nrQtdTransacaoChurn2pp,
    -- of the transactions, the share with 'Churn_2pp'; 0 = none | share 0 to 1 | D28
    -- | nrQtdTransacaoChurn2pp / nrQtdeTransacaoD28
    CAST(COALESCE(p.nrTransacoesChurn2pp, 0) AS DOUBLE) / NULLIF(j.nrTransacoesD28, 0) AS nrPctTransacaoChurn2pp,
    -- transactions with 'Churn_5pp'; 0 = none | transactions | D28 | count of transactions with 'Churn_5pp'
    CAST(COALESCE(p.nrTransacoesChurn5pp, 0) AS BIGINT) AS nrQtdTransacaoChurn5pp,
    -- of the transactions, the share with 'Churn_5pp'; 0 = none | share 0 to 1 | D28
    -- | nrQtdTransacaoChurn5pp / nrQtdeTransacaoD28
    CAST(COALESCE(p.nrTransacoesChurn5pp, 0) AS DOUBLE) / NULLIF(j.nrTransacoesD28, 0) AS nrPctTransacaoChurn5pp,
    -- transactions with 'Daily Loot'; 0 = none | transactions | D28 | count of transactions with 'Daily Loot'
    CAST(COALESCE(p.nrTransacoesDailyLoot, 0) AS BIGINT) AS nrQtdTransacaoDailyLoot,
    -- of the transactions, the share with 'Daily Loot'; 0 = none | share 0 to 1 | D28
    -- | nrQtdTransacaoDailyLoot / nrQtdeTransacaoD28
    CAST(COALESCE(p.nrTransacoesDailyLoot, 0) AS DOUBLE) / NULLIF(j.nrTransacoesD28, 0) AS nrPctTransacaoDailyLoot,
    -- transactions with 'Lista de presença'; 0 = none | transactions | D28
    -- | count of transactions with 'Lista de presença'
    CAST(COALESCE(p.nrTransacoesListaPresenca, 0) AS BIGINT) AS nrQtdTransacaoListapresenca,
    -- of the transactions, the share with 'Lista de presença'; 0 = none | share 0 to 1 | D28
    -- | nrQtdTransacaoListapresenca / nrQtdeTransacaoD28
    CAST(COALESCE(p.nrTransacoesListaPresenca, 0) AS DOUBLE) / NULLIF(j.nrTransacoesD28, 0)
        AS nrPctTransacaoListapresenca,
    -- transactions with 'Presença Streak'; 0 = none | transactions | D28 | count of transactions with 'Presença Streak'
    CAST(COALESCE(p.nrTransacoesPresencaStreak, 0) AS BIGINT) AS nrQtdTransacaoPresencaStreak,
    -- of the transactions, the share with 'Presença Streak'; 0 = none | share 0 to 1 | D28
    -- | nrQtdTransacaoPresencaStreak / nrQtdeTransacaoD28
    CAST(COALESCE(p.nrTransacoesPresencaStreak, 0) AS DOUBLE) / NULLIF(j.nrTransacoesD28, 0)
        AS nrPctTransacaoPresencaStreak,
    -- transactions with 'R Lover'; 0 = none | transactions | D28 | count of transactions with 'R Lover'
    CAST(COALESCE(p.nrTransacoesRLover, 0) AS BIGINT) AS nrQtdTransacaoRLover,
    -- of the transactions, the share with 'R Lover'; 0 = none | share 0 to 1 | D28
    -- | nrQtdTransacaoRLover / nrQtdeTransacaoD28
    CAST(COALESCE(p.nrTransacoesRLover, 0) AS DOUBLE) / NULLIF(j.nrTransacoesD28, 0) AS nrPctTransacaoRLover,
    -- transactions with 'Resgatar Ponei'; 0 = none | transactions | D28 | count of transactions with 'Resgatar Ponei'
    CAST(COALESCE(p.nrTransacoesResgatarPonei, 0) AS BIGINT) AS nrQtdTransacaoResgatarPonei,
    -- of the transactions, the share with 'Resgatar Ponei'; 0 = none | share 0 to 1 | D28
    -- | nrQtdTransacaoResgatarPonei / nrQtdeTransacaoD28
    CAST(COALESCE(p.nrTransacoesResgatarPonei, 0) AS DOUBLE) / NULLIF(j.nrTransacoesD28, 0)
        AS nrPctTransacaoResgatarPonei,
    -- transactions with 'Troca de Pontos StreamElements'; 0 = none | transactions | D28
    -- | count of transactions with 'Troca de Pontos StreamElements'
    CAST(COALESCE(p.nrTransacoesTrocaStreamElements, 0) AS BIGINT) AS nrQtdTransacaoTrocaStreamElements,
    -- of the transactions, the share with 'Troca de Pontos StreamElements'; 0 = none | share 0 to 1 | D28
    -- | nrQtdTransacaoTrocaStreamElements / nrQtdeTransacaoD28
    CAST(COALESCE(p.nrTransacoesTrocaStreamElements, 0) AS DOUBLE) / NULLIF(j.nrTransacoesD28, 0)
        AS nrPctTransacaoTrocaStreamElements,
    -- transactions with 'Venda de Item: ...'; 0 = none | transactions | D28
    -- | count of transactions with a product whose name contains 'Venda de Item: '
    CAST(COALESCE(p.nrTransacoesVendaItemRPG, 0) AS BIGINT) AS nrQtdTransacaoVendaItemRPG,
    -- of the transactions, the share with 'Venda de Item: ...'; 0 = none | share 0 to 1 | D28
    -- | nrQtdTransacaoVendaItemRPG / nrQtdeTransacaoD28
    CAST(COALESCE(p.nrTransacoesVendaItemRPG, 0) AS DOUBLE) / NULLIF(j.nrTransacoesD28, 0) AS nrPctTransacaoVendaItemRPG
FROM janela AS j
LEFT JOIN produto AS p ON p.dtRef = j.dtRef AND p.idCliente = j.idCliente
