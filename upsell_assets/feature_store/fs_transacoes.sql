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
        r.dtRef,
        c.idCliente,
        SUM(CASE WHEN c.descSufixo = 'AirflowLover' THEN c.nrTransacoes END) AS nrTransacoesAirflowLover,
        SUM(CASE WHEN c.descSufixo = 'ChatMessage' THEN c.nrTransacoes END) AS nrTransacoesChatMessage,
        SUM(CASE WHEN c.descSufixo = 'Churn10pp' THEN c.nrTransacoes END) AS nrTransacoesChurn10pp,
        SUM(CASE WHEN c.descSufixo = 'Churn2pp' THEN c.nrTransacoes END) AS nrTransacoesChurn2pp,
        SUM(CASE WHEN c.descSufixo = 'Churn5pp' THEN c.nrTransacoes END) AS nrTransacoesChurn5pp,
        SUM(CASE WHEN c.descSufixo = 'DailyLoot' THEN c.nrTransacoes END) AS nrTransacoesDailyLoot,
        SUM(CASE WHEN c.descSufixo = 'ListaPresenca' THEN c.nrTransacoes END) AS nrTransacoesListaPresenca,
        SUM(CASE WHEN c.descSufixo = 'PresencaStreak' THEN c.nrTransacoes END) AS nrTransacoesPresencaStreak,
        SUM(CASE WHEN c.descSufixo = 'RLover' THEN c.nrTransacoes END) AS nrTransacoesRLover,
        SUM(CASE WHEN c.descSufixo = 'ResgatarPonei' THEN c.nrTransacoes END) AS nrTransacoesResgatarPonei,
        SUM(CASE WHEN c.descSufixo = 'TrocaStreamElements' THEN c.nrTransacoes END) AS nrTransacoesTrocaStreamElements,
        SUM(CASE WHEN c.descSufixo = 'VendaItemRPG' THEN c.nrTransacoes END) AS nrTransacoesVendaItemRPG
    FROM dtrefs AS r
    INNER JOIN feature_store.upsell._cliente_dia_produto AS c
        ON c.dtDia >= DATE_SUB(r.dtRef, 28) AND c.dtDia < r.dtRef
    GROUP BY r.dtRef, c.idCliente
)

SELECT
    j.dtRef, -- the day that the features look back from, local
    j.idCliente, -- customer, uuid
    CAST(j.nrTransacoesD7 AS BIGINT) AS nrQtdeTransacaoD7, -- transactions in D7
    CAST(j.nrTransacoesD28 AS BIGINT) AS nrQtdeTransacaoD28, -- transactions in D28
    CAST(j.nrTransacoesD56 AS BIGINT) AS nrQtdeTransacaoD56, -- transactions in D56
    CAST(j.nrTransacoesVida AS BIGINT) AS nrQtdeTransacaoVida, -- transactions over the life before dtRef
    CAST(j.nrTransacoesD7 AS DOUBLE) / NULLIF(j.nrDiasD7, 0)
        AS nrQtdeTransacaoDiaD7, -- transactions per active day in D7
    CAST(j.nrTransacoesD28 AS DOUBLE) / NULLIF(j.nrDiasD28, 0)
        AS nrQtdeTransacaoDiaD28, -- transactions per active day in D28
    CAST(j.nrTransacoesD56 AS DOUBLE) / NULLIF(j.nrDiasD56, 0)
        AS nrQtdeTransacaoDiaD56, -- transactions per active day in D56
    CAST(j.nrTransacoesVida AS DOUBLE) / NULLIF(j.nrDiasVida, 0)
        AS nrQtdeTransacaoDiaVida, -- transactions per active day over the life before dtRef
    CAST(COALESCE(p.nrTransacoesAirflowLover, 0) AS BIGINT)
        AS nrQtdTransacaoAirflowLover, -- transactions with 'Airflow Lover' in D28
    CAST(COALESCE(p.nrTransacoesAirflowLover, 0) AS DOUBLE) / NULLIF(j.nrTransacoesD28, 0)
        AS nrPctTransacaoAirflowLover, -- that, of the transactions of D28, 0 to 1
    CAST(COALESCE(p.nrTransacoesChatMessage, 0) AS BIGINT)
        AS nrQtdTransacaoChatMessage, -- transactions with 'ChatMessage' in D28
    CAST(COALESCE(p.nrTransacoesChatMessage, 0) AS DOUBLE) / NULLIF(j.nrTransacoesD28, 0)
        AS nrPctTransacaoChatMessage, -- that, of the transactions of D28, 0 to 1
    CAST(COALESCE(p.nrTransacoesChurn10pp, 0) AS BIGINT)
        AS nrQtdTransacaoChurn10pp, -- transactions with 'Churn_10pp' in D28
    CAST(COALESCE(p.nrTransacoesChurn10pp, 0) AS DOUBLE) / NULLIF(j.nrTransacoesD28, 0)
        AS nrPctTransacaoChurn10pp, -- that, of the transactions of D28, 0 to 1
    CAST(COALESCE(p.nrTransacoesChurn2pp, 0) AS BIGINT)
        AS nrQtdTransacaoChurn2pp, -- transactions with 'Churn_2pp' in D28
    CAST(COALESCE(p.nrTransacoesChurn2pp, 0) AS DOUBLE) / NULLIF(j.nrTransacoesD28, 0)
        AS nrPctTransacaoChurn2pp, -- that, of the transactions of D28, 0 to 1
    CAST(COALESCE(p.nrTransacoesChurn5pp, 0) AS BIGINT)
        AS nrQtdTransacaoChurn5pp, -- transactions with 'Churn_5pp' in D28
    CAST(COALESCE(p.nrTransacoesChurn5pp, 0) AS DOUBLE) / NULLIF(j.nrTransacoesD28, 0)
        AS nrPctTransacaoChurn5pp, -- that, of the transactions of D28, 0 to 1
    CAST(COALESCE(p.nrTransacoesDailyLoot, 0) AS BIGINT)
        AS nrQtdTransacaoDailyLoot, -- transactions with 'Daily Loot' in D28
    CAST(COALESCE(p.nrTransacoesDailyLoot, 0) AS DOUBLE) / NULLIF(j.nrTransacoesD28, 0)
        AS nrPctTransacaoDailyLoot, -- that, of the transactions of D28, 0 to 1
    CAST(COALESCE(p.nrTransacoesListaPresenca, 0) AS BIGINT)
        AS nrQtdTransacaoListapresenca, -- transactions with 'Lista de presença' in D28
    CAST(COALESCE(p.nrTransacoesListaPresenca, 0) AS DOUBLE) / NULLIF(j.nrTransacoesD28, 0)
        AS nrPctTransacaoListapresenca, -- that, of the transactions of D28, 0 to 1
    CAST(COALESCE(p.nrTransacoesPresencaStreak, 0) AS BIGINT)
        AS nrQtdTransacaoPresencaStreak, -- transactions with 'Presença Streak' in D28
    CAST(COALESCE(p.nrTransacoesPresencaStreak, 0) AS DOUBLE) / NULLIF(j.nrTransacoesD28, 0)
        AS nrPctTransacaoPresencaStreak, -- that, of the transactions of D28, 0 to 1
    CAST(COALESCE(p.nrTransacoesRLover, 0) AS BIGINT) AS nrQtdTransacaoRLover, -- transactions with 'R Lover' in D28
    CAST(COALESCE(p.nrTransacoesRLover, 0) AS DOUBLE) / NULLIF(j.nrTransacoesD28, 0)
        AS nrPctTransacaoRLover, -- that, of the transactions of D28, 0 to 1
    CAST(COALESCE(p.nrTransacoesResgatarPonei, 0) AS BIGINT)
        AS nrQtdTransacaoResgatarPonei, -- transactions with 'Resgatar Ponei' in D28
    CAST(COALESCE(p.nrTransacoesResgatarPonei, 0) AS DOUBLE) / NULLIF(j.nrTransacoesD28, 0)
        AS nrPctTransacaoResgatarPonei, -- that, of the transactions of D28, 0 to 1
    CAST(COALESCE(p.nrTransacoesTrocaStreamElements, 0) AS BIGINT)
        AS nrQtdTransacaoTrocaStreamElements, -- transactions with 'Troca de Pontos StreamElements' in D28
    CAST(COALESCE(p.nrTransacoesTrocaStreamElements, 0) AS DOUBLE) / NULLIF(j.nrTransacoesD28, 0)
        AS nrPctTransacaoTrocaStreamElements, -- that, of the transactions of D28, 0 to 1
    CAST(COALESCE(p.nrTransacoesVendaItemRPG, 0) AS BIGINT)
        AS nrQtdTransacaoVendaItemRPG, -- transactions with a product 'Venda de Item: ...' in D28
    CAST(COALESCE(p.nrTransacoesVendaItemRPG, 0) AS DOUBLE) / NULLIF(j.nrTransacoesD28, 0)
        AS nrPctTransacaoVendaItemRPG -- that, of the transactions of D28, 0 to 1
FROM janela AS j
LEFT JOIN produto AS p ON p.dtRef = j.dtRef AND p.idCliente = j.idCliente
