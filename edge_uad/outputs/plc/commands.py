"""The handshake of ExecuteCommand: executing, then completed or failed until the PLC lets go of the bit."""


class CommandHandshake:
    """Which command is being carried out, and how the last one ended."""

    def __init__(self) -> None:
        self.completed = self.failed = False
        self.recipe_id: int | None = None
        """The recipe being prepared; None where no command takes time at the moment."""

    @property
    def executing(self) -> bool:
        """A command is being carried out."""
        return self.recipe_id is not None

    def begin_recipe(self, recipe_id: int) -> None:
        """PrepareRecipe begins."""
        self.completed = self.failed = False
        self.recipe_id = recipe_id

    def end(self, *, completed: bool) -> None:
        """A command ended; whatever was being carried out is over, too."""
        self.recipe_id = None
        self.completed, self.failed = completed, not completed

    def fail(self) -> None:
        """What is being carried out fails; nothing else changes."""
        if self.executing:
            self.end(completed=False)

    def released(self) -> None:
        """ExecuteCommand fell: the outcome was read; where there is none yet, it is shown until the next command."""
        self.completed = self.failed = False
