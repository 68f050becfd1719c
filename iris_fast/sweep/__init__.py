"""Games × seeds as runs of their own: which are to do, where they run, and how far they are."""
