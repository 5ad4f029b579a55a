-- One row per requested dtRef, customer and local day with activity in D56: the days of the 56 before dtRef. The
-- population of a dtRef is who has a day with nrDiasAntes <= 28.
SELECT
    r.dtRef, -- the day of which features are asked
    DATEDIFF(r.dtRef, c.dtDia) AS nrDiasAntes, -- days from the activity to dtRef, 1 to 56
    c.* -- of that day
FROM dtrefs AS r
INNER JOIN feature_store.upsell._cliente_dia AS c
    ON c.dtDia >= DATE_SUB(r.dtRef, 56) AND c.dtDia < r.dtRef
-- The same of all dtRefs together, so that what lies outside is not read.
WHERE c.dtDia >= DATE_SUB(:first_dtref, 56) AND c.dtDia < :last_dtref
