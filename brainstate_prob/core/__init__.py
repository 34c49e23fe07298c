"""State, StateTrace and functionalize: the only place where State meets tracing."""

from brainstate_prob.core.filters import all_of, any_of, not_, to_predicate
from brainstate_prob.core.state import (
    BatchState,
    DelayState,
    HiddenState,
    LongTermState,
    ParamState,
    ShortTermState,
    State,
    catch_new_states,
    maybe_state,
)
from brainstate_prob.core.trace import StateTrace, TraceError, current_trace

__all__ = [
    'BatchState',
    'DelayState',
    'HiddenState',
    'LongTermState',
    'ParamState',
    'ShortTermState',
    'State',
    'StateTrace',
    'TraceError',
    'all_of',
    'any_of',
    'catch_new_states',
    'current_trace',
    'maybe_state',
    'not_',
    'to_predicate',
]
