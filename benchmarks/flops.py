"""Arithmetic that work needs: two operations a multiply-add of linear layers and attention.

Embedding look-ups, norms and other passes over elements count nothing; a backward pass counts as
two forwards, whatever is computed again.
"""

from dataclasses import dataclass

FREQUENCIES = 256
TRAINING = 3


@dataclass(frozen=True)
class Shape:
    """Sizes of a transformer; `cond_dim` is None for one that takes no sigma."""

    width: int
    num_blocks: int
    num_outputs: int
    length: int
    cond_dim: int | None

    def forward(
        self,
        rows: float,
        head_positions: float | None = None,
        sigmas: float | None = None,
        first_positions: float | None = None,
    ) -> float:
        """Operations of a forward pass over `rows` sequences.

        Args:
            rows: sequences, of `length` positions each.
            head_positions: where outputs are wanted, and so the last block's attention out and
                perceptron; None for all.
            sigmas: how many values of sigma are embedded; None for one a row.
            first_positions: those that the first block projects to queries, keys and values;
                None for all.
        """
        positions = rows * self.length
        head = positions if head_positions is None else head_positions
        multiply_adds = self.num_blocks * positions * self._block() + head * self._head()
        multiply_adds -= (positions - head) * 9 * self.width**2
        if first_positions is not None:
            multiply_adds -= (positions - first_positions) * 3 * self.width**2
        if self.cond_dim is not None:
            multiply_adds += (rows if sigmas is None else sigmas) * self._modulation(self.cond_dim)
        return 2 * multiply_adds

    def _block(self) -> int:
        """Of a position in a block: the linear layers, then queries by keys and weights by values.

        They are 3 + 1 + 4 + 4 squares of the width.
        """
        return 12 * self.width**2 + 2 * self.length * self.width

    def _head(self) -> int:
        return self.width * self.num_outputs

    def _modulation(self, cond_dim: int) -> int:
        """Of a sigma: its embedding, and what shifts, scales and gates every block and the head."""
        embedding = FREQUENCIES * cond_dim + cond_dim**2
        return embedding + (6 * self.num_blocks + 2) * cond_dim * self.width
