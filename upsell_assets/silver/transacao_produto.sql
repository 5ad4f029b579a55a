-- Product lines of the transactions' carts; one row per idTransacaoProduto.
SELECT
    p.idTransactionCart AS idTransacaoProduto, -- product line, uuid
    p.idTransaction AS idTransacao, -- transaction that the line belongs to; it need not exist
    p.NameProduct AS descNomeProduto, -- product name, as the points system spells it
    CAST(p.QuantityProduct AS BIGINT) AS nrQuantidadeProduto -- quantity, units
FROM bronze.upsell.transactions_product AS p
