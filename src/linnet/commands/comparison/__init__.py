"""The engine of ``linnet compare``: rows (methods, or one method with other settings) times seeds, each cell a run."""
