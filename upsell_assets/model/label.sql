-- Churn label: did a customer of the population of dtRef stay away for the 28 local days that follow?
-- Grain: one row per (dtRef, idCliente) of the population, days in America/Sao_Paulo; the relation dtrefs asks for
-- any set of days. A dtRef has labels only once the newest event's day is at or after dtRef + 28: a window that is
-- not over, or that the data does not reach, labels nobody. Events after :now do not exist; those without a
-- customer still show how far the data reaches.
WITH evento AS (
  SELECT
    idCliente,
    to_date(from_utc_timestamp(dtTransacao, 'America/Sao_Paulo')) AS dtDia
  FROM silver.upsell.transacoes
  WHERE dtTransacao <= :now
),

ultimo AS (
  SELECT max(dtDia) AS dtUltimo
  FROM evento
),

cliente_dia AS (
  SELECT DISTINCT idCliente, dtDia
  FROM evento
  WHERE idCliente IS NOT NULL
)

SELECT
  r.dtRef, -- day of reference: activity before it makes the population, activity from it on the label
  d.idCliente, -- customer with at least one transaction in [dtRef-28, dtRef-1]
  CAST(CASE WHEN max(d.dtDia) < r.dtRef THEN 1 ELSE 0 END AS BIGINT) AS flChurn -- 1: no transaction in [dtRef, dtRef+27]
FROM dtrefs AS r
INNER JOIN ultimo AS u
  ON u.dtUltimo >= date_add(r.dtRef, 28)
INNER JOIN cliente_dia AS d
  ON d.dtDia >= date_add(r.dtRef, -28) AND d.dtDia <= date_add(r.dtRef, 27)
GROUP BY r.dtRef, d.idCliente
HAVING min(d.dtDia) < r.dtRef
