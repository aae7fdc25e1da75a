"""Measuring networks: operations, time, memory, and the tables and plots that show them.

:class:`Contest` measures candidates in turn, :class:`CostCards` and :func:`cost_card` what whole
models take, :func:`count_flops`, :func:`peak_memory` and :func:`saved_memory` one computation.
"""

from .candidates import Setting
from .contest import Contest
from .cost_cards import CostCards, cost_card
from .flops import count_flops
from .memory import peak_memory, saved_memory
from .models import usual_sizes

__all__ = [
    'Contest',
    'CostCards',
    'Setting',
    'cost_card',
    'count_flops',
    'peak_memory',
    'saved_memory',
    'usual_sizes',
]
