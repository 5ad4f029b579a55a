-- Who of the customers of the 28 local days before the last 28 did not come back in the last 28; one row per dtRef.
-- The last 28 local days end with dtRef; a customer is active by a transaction.
WITH atividade AS (
    SELECT
        c.idCliente,
        c.dtDia
    FROM feature_store.upsell._cliente_dia AS c
    -- The days of all dtRefs together, so that what lies outside is not read.
    WHERE c.dtDia > DATE_SUB(:first_dtref, 56) AND c.dtDia <= :last_dtref
),

cliente AS (
    SELECT
        r.dtRef,
        a.idCliente,
        MAX(CASE WHEN a.dtDia <= DATE_SUB(r.dtRef, 28) THEN 1 ELSE 0 END) AS flBaseOld,
        MAX(CASE WHEN a.dtDia > DATE_SUB(r.dtRef, 28) THEN 1 ELSE 0 END) AS flBaseNew
    FROM dtrefs AS r
    INNER JOIN atividade AS a ON a.dtDia > DATE_SUB(r.dtRef, 56) AND a.dtDia <= r.dtRef
    GROUP BY r.dtRef, a.idCliente
),

base AS (
    SELECT
        r.dtRef,
        CAST(COALESCE(SUM(c.flBaseOld), 0) AS BIGINT) AS qtdeBaseOld,
        CAST(COALESCE(SUM(c.flBaseOld * c.flBaseNew), 0) AS BIGINT) AS qtdeBaseNewNotChurn
    FROM dtrefs AS r
    LEFT JOIN cliente AS c ON c.dtRef = r.dtRef
    GROUP BY r.dtRef
)

SELECT -- columns: meaning | unit | window | formula
    -- last local day of the last 28
    b.dtRef,
    -- customers of the base | customers | 56 days
    -- | count of distinct customers with a transaction whose local day is in (dtRef - 56, dtRef - 28]
    b.qtdeBaseOld,
    -- customers of the base who came back | customers | 56 days
    -- | count of those of qtdeBaseOld with a transaction whose local day is in (dtRef - 28, dtRef]
    b.qtdeBaseNewNotChurn,
    -- customers of the base who did not come back | customers | 56 days | qtdeBaseOld - qtdeBaseNewNotChurn
    b.qtdeBaseOld - b.qtdeBaseNewNotChurn AS nrQtdeChurn,
    -- of the base, the share that did not come back; null = no base | share 0 to 1 | 56 days
    -- | nrQtdeChurn / qtdeBaseOld
    CAST(b.qtdeBaseOld - b.qtdeBaseNewNotChurn AS DOUBLE) / NULLIF(b.qtdeBaseOld, 0) AS ChurnRate
FROM base AS b
