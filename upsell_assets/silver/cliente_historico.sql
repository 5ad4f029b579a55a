-- The states that a customer went through, as intervals [dtInicio, dtFim) (SCD type 2); key (idCliente, dtInicio).
-- It is a function of the set of accepted change rows and of the set of ended full loads:
-- 1. The end of a full load deletes whom the load does not hold: of each customer it is a delete at the load's
--    position (a floor). Whatever came late below it thus ends there; a truncate is a load that holds nobody.
-- 2. Order: the law's. Where :modified_date_first (contracts that order by modified_date, change_seq) by
--    modified_date, then change_seq; else (order by change_seq alone) by change_seq. A missing change_seq stands
--    below any present one; there modified_date decides. At one position the changes come first, then the delete of
--    a load's end, then the rows of the load (files below :load_folder); without a change_seq object key and row
--    number decide among equals.
-- 3. Equal order with a change_seq is one change, however many files hold it: a delete wins, else the greatest row
--    by its text. A row of a load stands for the load's end.
-- 4. A state begins at its change's modified_date, but never before the states that precede it in the order, since a
--    commit clock can step back. Of the states that begin at one instant only the last is kept, so that no interval
--    is empty.
-- 5. A change that changes nothing begins no interval: equal neighbours are one interval. A delete ends the
--    interval and begins none.
WITH received AS (
    SELECT
        c.idCustomer,
        c.PointsCustomer,
        c.flEmail,
        c._op,
        c._modified_date,
        c._change_seq,
        c._file,
        c._row,
        CASE WHEN STARTSWITH(c._file, :load_folder) THEN 2 ELSE 0 END AS nrEtapa
    FROM bronze.upsell._customers_changes AS c
    WHERE c.idCustomer IS NOT NULL
),

said AS (
    SELECT r.*
    FROM received AS r
    UNION ALL
    SELECT
        k.idCustomer,
        NULL AS PointsCustomer,
        NULL AS flEmail,
        'D' AS _op,
        f._modified_date,
        f._change_seq,
        :load_folder AS _file,
        NULL AS _row,
        1 AS nrEtapa
    FROM (SELECT DISTINCT r.idCustomer FROM received AS r) AS k
    CROSS JOIN bronze.upsell._customers_floors AS f
),

ordered AS (
    SELECT
        c.idCustomer,
        c.PointsCustomer,
        c.flEmail,
        c._op = 'D' AS deleted,
        c._modified_date,
        ROW_NUMBER() OVER (
            PARTITION BY c.idCustomer
            ORDER BY
                CASE WHEN :modified_date_first THEN c._modified_date END ASC NULLS FIRST,
                c._change_seq ASC NULLS FIRST,
                CASE WHEN c._change_seq IS NULL THEN c._modified_date END ASC NULLS FIRST,
                c.nrEtapa ASC,
                CASE WHEN c._change_seq IS NULL THEN c._file END ASC NULLS FIRST,
                CASE WHEN c._change_seq IS NULL THEN c._row END ASC NULLS FIRST,
                CASE WHEN c._op = 'D' THEN 1 ELSE 0 END ASC,
                CAST(c.PointsCustomer AS STRING) ASC NULLS FIRST,
                CAST(c.flEmail AS STRING) ASC NULLS FIRST,
                c._modified_date ASC NULLS FIRST
        ) AS nr,
        ROW_NUMBER() OVER (
            PARTITION BY
                c.idCustomer,
                c._change_seq,
                CASE WHEN :modified_date_first THEN c._modified_date END,
                CASE WHEN c._change_seq IS NULL THEN c._modified_date END,
                c.nrEtapa > 0,
                CASE WHEN c._change_seq IS NULL THEN c._file END,
                CASE WHEN c._change_seq IS NULL THEN c._row END
            ORDER BY
                c.nrEtapa DESC,
                CASE WHEN c._op = 'D' THEN 1 ELSE 0 END DESC,
                CAST(c.PointsCustomer AS STRING) DESC NULLS LAST,
                CAST(c.flEmail AS STRING) DESC NULLS LAST,
                c._modified_date DESC NULLS LAST
        ) AS nrRepeticao
    FROM said AS c
),

timed AS (
    SELECT
        o.idCustomer,
        o.PointsCustomer,
        o.flEmail,
        o.deleted,
        o.nr,
        MAX(o._modified_date) OVER (
            PARTITION BY o.idCustomer ORDER BY o.nr ASC ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
        ) AS dtInicio
    FROM ordered AS o
    WHERE o.nrRepeticao = 1
),

followed AS (
    SELECT
        t.*,
        LEAD(t.dtInicio) OVER (PARTITION BY t.idCustomer ORDER BY t.nr ASC) AS dtSeguinte
    FROM timed AS t
    WHERE t.dtInicio IS NOT NULL
),

compared AS (
    SELECT
        f.*,
        COALESCE(
            LAG(f.deleted) OVER (PARTITION BY f.idCustomer ORDER BY f.nr ASC), TRUE
        ) AS deletedAntes,
        LAG(f.PointsCustomer) OVER (PARTITION BY f.idCustomer ORDER BY f.nr ASC) AS PointsAntes,
        LAG(f.flEmail) OVER (PARTITION BY f.idCustomer ORDER BY f.nr ASC) AS flEmailAntes
    FROM followed AS f
    WHERE f.dtSeguinte IS NULL OR f.dtSeguinte > f.dtInicio
),

changed AS (
    SELECT
        c.idCustomer,
        c.PointsCustomer,
        c.flEmail,
        c.deleted,
        c.dtInicio,
        LEAD(c.dtInicio) OVER (PARTITION BY c.idCustomer ORDER BY c.nr ASC) AS dtFim
    FROM compared AS c
    WHERE
        c.deleted <> c.deletedAntes
        OR (
            NOT c.deleted
            AND (c.PointsCustomer IS DISTINCT FROM c.PointsAntes OR c.flEmail IS DISTINCT FROM c.flEmailAntes)
        )
)

SELECT
    c.idCustomer AS idCliente, -- customer, uuid
    c.dtInicio, -- since when the state holds, UTC
    CAST(c.flEmail AS BIGINT) AS flEmailCliente, -- 1 = has an e-mail address, 0 = has none, null = not known
    CAST(c.PointsCustomer AS BIGINT) AS nrPontosCliente, -- balance, points
    c.dtFim -- until when it held, UTC, excluded; null = it holds
FROM changed AS c
WHERE NOT c.deleted
