"""Applying: coalesce whole transactions into a batch (pure), make its SQL (pure), run it on the target."""
