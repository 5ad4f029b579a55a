-- One row per customer, local day and product of the list that features know by a suffix. A transaction counts once
-- for each distinct product in its cart, with its full points, however many lines name the product.
WITH produto AS (
    SELECT DISTINCT
        p.idTransacao,
        CASE
            WHEN p.descNomeProduto = 'Airflow Lover' THEN 'AirflowLover'
            WHEN p.descNomeProduto = 'ChatMessage' THEN 'ChatMessage'
            WHEN p.descNomeProduto = 'Churn_10pp' THEN 'Churn10pp'
            WHEN p.descNomeProduto = 'Churn_2pp' THEN 'Churn2pp'
            WHEN p.descNomeProduto = 'Churn_5pp' THEN 'Churn5pp'
            WHEN p.descNomeProduto = 'Daily Loot' THEN 'DailyLoot'
            WHEN p.descNomeProduto = 'Lista de presença' THEN 'ListaPresenca'
            WHEN p.descNomeProduto = 'Presença Streak' THEN 'PresencaStreak'
            WHEN p.descNomeProduto = 'R Lover' THEN 'RLover'
            WHEN p.descNomeProduto = 'Resgatar Ponei' THEN 'ResgatarPonei'
            WHEN p.descNomeProduto = 'Troca de Pontos StreamElements' THEN 'TrocaStreamElements'
            WHEN p.descNomeProduto LIKE '%Venda de Item: %' THEN 'VendaItemRPG'
        END AS descSufixo
    FROM silver.upsell.transacao_produto AS p
)

SELECT
    t.idCliente, -- customer, uuid
    CAST(FROM_UTC_TIMESTAMP(t.dtTransacao, 'America/Sao_Paulo') AS DATE) AS dtDia, -- local day
    p.descSufixo, -- product, as the names of features spell it
    COUNT(*) AS nrTransacoes, -- transactions with the product
    CAST(SUM(ABS(t.nrPontosTransacao)) AS BIGINT) AS nrPontosAbs -- their points, whatever their sign
FROM silver.upsell.transacoes AS t
INNER JOIN produto AS p ON p.idTransacao = t.idTransacao
WHERE t.idCliente IS NOT NULL AND t.dtTransacao IS NOT NULL AND p.descSufixo IS NOT NULL
GROUP BY t.idCliente, CAST(FROM_UTC_TIMESTAMP(t.dtTransacao, 'America/Sao_Paulo') AS DATE), p.descSufixo
