"""With how many rows a step's products are computed: with as many as there are, or with the next one of a few sizes."""

from dataclasses import dataclass

EXACT = 16  # up to so many, any number is a size
PARTS = 8  # sizes from one power of two to its double, beyond


@dataclass(frozen=True, slots=True)
class RowSizes:
    fewest: int = 1  # fewer take longer than so many
    few: bool = False  # whether each number of rows that is met costs memory for ever
    tile: int = 1  # so many are always multiplied together

    def at_least(self, rows: int) -> int:
        """The size for so many: at most an eighth more where few are wanted, 4 % on average."""
        if not rows:
            return 0
        rows = max(rows, self.fewest)
        if not self.few or rows <= EXACT:
            return -(-rows // self.tile) * self.tile
        part = (1 << (rows - 1).bit_length() - 1) // PARTS
        return -(-rows // part) * part


ANY = RowSizes()
