-- One row per requested dtRef, customer, local day and product of the list in D28: the days of the 28 before dtRef.
SELECT
    r.dtRef, -- the day of which features are asked
    c.* -- of that day and product
FROM dtrefs AS r
INNER JOIN feature_store.upsell._cliente_dia_produto AS c
    ON c.dtDia >= DATE_SUB(r.dtRef, 28) AND c.dtDia < r.dtRef
-- The same of all dtRefs together, so that what lies outside is not read.
WHERE c.dtDia >= DATE_SUB(:first_dtref, 28) AND c.dtDia < :last_dtref
