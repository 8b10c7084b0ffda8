"""What a user can mend."""


class UserError(ValueError):
    """Raised where the cause is known: the text says in one line what is wrong and what would be right."""
