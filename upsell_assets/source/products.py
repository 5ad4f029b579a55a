"""What points are earned with and spent on, as measured in the data of 2024 and 2025.

Here: names, points and frequency of the products that the simulator and the live activity hand out. Not here: when
and to whom. The lake knows products by the names that arrive, never by this list.
"""

from __future__ import annotations

from typing import NamedTuple

CHAT_MESSAGE = "ChatMessage"
CHAT_POINTS = 1
ATTENDANCE = "Lista de presença"
ATTENDANCE_POINTS = 50
ITEM_SALE = "Venda de Item: "


class Product(NamedTuple):
    """`weight` is how often it is asked for, among the products beside chat and attendance."""

    name: str
    points: int
    weight: float


PRODUCTS = (
    Product("Presença Streak", 100, 0.17),
    Product("Resgatar Ponei", 500, 0.14),
    Product("Churn_10pp", 10, 0.18),
    Product("Churn_5pp", 50, 0.08),
    Product("Churn_2pp", 100, 0.04),
    # Spending is asked for more often than it is seen: many cannot afford it.
    Product("Troca de Pontos StreamElements", -1000, 0.22),
    Product("Daily Loot", -250, 0.08),
    Product("Airflow Lover", -50, 0.02),
    Product("R Lover", -50, 0.02),
)

ITEM_WEIGHT = 0.05
"""How often items of the role-playing game are sold, on the scale of `Product.weight`."""

ITEMS = (
    Product(f"{ITEM_SALE}Pedra", 1, 0.40),
    Product(f"{ITEM_SALE}Adaga", 2, 0.25),
    Product(f"{ITEM_SALE}Arco Curto", 3, 0.15),
    Product(f"{ITEM_SALE}Escudo de Madeira", 5, 0.12),
    Product(f"{ITEM_SALE}Armadura de Couro", 8, 0.08),
)
"""Points are those of one piece; a cart of a sale has a line for each item."""
