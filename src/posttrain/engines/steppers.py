"""What decodes with the present weights of a model."""

from __future__ import annotations

from posttrain.engines.prefill import Prefill
from posttrain.engines.prefix_tree import PrefixTree
from posttrain.engines.speculation import Speculation, SpeculativeStepper
from posttrain.engines.stepping import CacheStepper, ForestStepper, Stepper, matching_decoder
from posttrain.kernels.columns import ColumnDecoder, weights_state
from posttrain.kernels.graphs import StepGraphs
from posttrain.models.language_model import LanguageModel


class Steppers:
    """Makes steppers of a model, and renews them when its weights change.

    Args:
        prefixes: cleared when it holds keys and values of other weights.
        max_prefill_tokens: of one prompt pass.
    """

    def __init__(
        self,
        model: LanguageModel,
        prefixes: PrefixTree,
        graphs: StepGraphs | None,
        speculation: Speculation | None,
        max_prefill_tokens: int,
    ) -> None:
        self.model = model
        self.prefixes = prefixes
        self.graphs = graphs
        self.speculation = speculation
        self.max_prefill_tokens = max_prefill_tokens
        self._columns: tuple[list[object], ColumnDecoder | None] = ([], None)
        self._weights: list[object] = []  # of which the prefixes are

    def make(self, version: int) -> Stepper:
        """A stepper without rows. version: of the weights."""
        if not self.model.shares_trunks:
            return CacheStepper(self.model)
        state = self._state(version)
        prefill = Prefill(self.model, self.prefixes, max_tokens=self.max_prefill_tokens)
        if self.speculation is not None:
            return SpeculativeStepper(self.model, prefill, self.speculation)
        return ForestStepper(self.model, prefill, self._column_decoder(state), self.graphs)

    def renew(self, stepper: Stepper, version: int) -> None:
        """Let a stepper's rows go on with the model's new weights. The keys and values that they
        have computed stay as they are.
        """
        if not isinstance(stepper, ForestStepper):
            stepper.renew()
            return
        if self.graphs is not None:
            self.graphs.release()
        stepper.renew(self._column_decoder(self._state(version)))

    def _state(self, version: int) -> list[object]:
        """Changes when the weights do, or the adapters that are switched on. Prefixes of an
        earlier state are dropped.
        """
        model = self.model
        virtual = weights_state(model.hf) if model.num_virtual_tokens else []
        state = [version, *weights_state(model.pretrained), *virtual]
        if state != self._weights:
            self.prefixes.clear()
            self._weights = state
        return state

    def _column_decoder(self, state: list[object]) -> ColumnDecoder | None:
        """The decoder in columns of the weights as they are now, where the model has one."""
        if self.graphs is not None:
            return None
        if state != self._columns[0]:
            self._columns = (state, matching_decoder(self.model))
        return self._columns[1]
