-- The distinct product names; one row per descProduto.
SELECT DISTINCT
    p.descNomeProduto AS descProduto -- product name, as the points system spells it
FROM silver.upsell.transacao_produto AS p
WHERE p.descNomeProduto IS NOT NULL
