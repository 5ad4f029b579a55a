-- Movements of points, with their time as a UTC instant; one row per idTransacao.
-- A date is read where it is ISO of the years 1000 to 2999: a day, and after `T` or a blank hours and minutes,
-- seconds, a fraction (cut at microseconds), then a zone (Z, UTC, GMT) or an offset up to 14 hours (+00, -0300,
-- +00:00, +0000 UTC, -0300 -03). Without a zone it is UTC; without a time it is midnight. Anything else, such as
-- MySQL's 0000-00-00 or a day that no calendar has, is null.
WITH trimmed AS (
    SELECT
        t.idTransaction,
        t.idCustomer,
        t.pointsTransaction,
        -- Blanks are named, and letters left as they are: the engines differ in what else they trim and fold.
        TRIM(BOTH ' ' FROM t.dtTransaction) AS texto
    FROM bronze.upsell.transactions AS t
),

readable AS (
    SELECT
        t.idTransaction,
        t.idCustomer,
        t.pointsTransaction,
        CASE
            WHEN t.texto RLIKE CONCAT(
                '^[12][0-9]{3}-[0-9]{2}-[0-9]{2}',
                '([Tt ]([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9]([.,][0-9]+)?)?',
                '( ?([Zz]|[Uu][Tt][Cc]|[Gg][Mm][Tt]|[+-](0[0-9]|1[0-3])(:?[0-5][0-9])?|[+-]14(:?00)?)',
                -- Neither $ nor \s: what they stand for in Java is more than elsewhere.
                '( ([A-Za-z]+|[+-][0-9]+))?)?)?[ \\t\\r\\n]*\\z'
            )
                THEN t.texto
        END AS texto
    FROM trimmed AS t
),

parts AS (
    SELECT
        t.idTransaction,
        t.idCustomer,
        t.pointsTransaction,
        SUBSTRING(t.texto, 1, 10) AS dia,
        SUBSTRING(t.texto, 12, 5) AS hora_minuto,
        REGEXP_EXTRACT(SUBSTRING(t.texto, 17), '^:([0-9]{2})', 1) AS segundo,
        REGEXP_EXTRACT(SUBSTRING(t.texto, 17), '[.,]([0-9]{1,6})', 1) AS fracao,
        REGEXP_EXTRACT(SUBSTRING(t.texto, 17), '([+-][0-9]{2})', 1) AS hora_desvio,
        REGEXP_EXTRACT(SUBSTRING(t.texto, 17), '[+-][0-9]{2}:?([0-9]{2})', 1) AS minuto_desvio
    FROM readable AS t
)

SELECT
    p.idTransaction AS idTransacao, -- transaction, uuid
    p.idCustomer AS idCliente, -- customer, who need not have a row in cliente
    TRY_CAST(
        -- Both engines are given one canonical spelling, 2024-02-01 00:00:00.0+00:00, and no other.
        CONCAT(
            p.dia,
            ' ',
            COALESCE(NULLIF(p.hora_minuto, ''), '00:00'),
            ':',
            COALESCE(NULLIF(p.segundo, ''), '00'),
            '.',
            COALESCE(NULLIF(p.fracao, ''), '0'),
            COALESCE(NULLIF(p.hora_desvio, ''), '+00'),
            ':',
            COALESCE(NULLIF(p.minuto_desvio, ''), '00')
        ) AS TIMESTAMP
    ) AS dtTransacao, -- time of the transaction, UTC; null where the source's text is no date
    CAST(p.pointsTransaction AS BIGINT) AS nrPontosTransacao -- points, negative = spent
FROM parts AS p
