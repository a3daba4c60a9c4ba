"""Numbers on command lines that click reads."""

import math
from typing import Any

import click


class Number(click.FloatRange):
    """A range that "nan" is not in, as it is in click's."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = float(super().convert(value, param, ctx))
        if math.isnan(number):
            self.fail(f"{value!r} is not a number.", param, ctx)
        return number
