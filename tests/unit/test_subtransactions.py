"""Where a rollback cuts what was kept of a transaction that has not committed."""

from hypothesis import given, settings
from hypothesis import strategies as st

from replicator.pgoutput.streamed import Subtransactions


class Nested:
    """Subtransactions as a session has them: what each has written, and what is left."""

    def __init__(self, top: int) -> None:
        self.top, self.stack, self.next_xid = top, [top], top + 1
        self.messages: list[int] = []
        self.merged: dict[int, list[int]] = {top: []}

    def save(self) -> None:
        self.stack.append(self.next_xid % 2**32)
        self.merged[self.stack[-1]] = []
        self.next_xid += 1

    def release(self) -> None:
        if len(self.stack) > 1:
            ended = self.stack.pop()
            self.merged[self.stack[-1]] += [*self.merged[ended], ended]

    def rolled_back(self) -> list[int]:
        """The subtransactions that end, the oldest first, as the source tells them: the inner ones before the outer."""
        if len(self.stack) == 1:
            return []
        ended = self.stack.pop()
        return [*sorted(self.merged[ended], key=lambda xid: (xid - self.top) % 2**32), ended]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from("wwwwsrb"), max_size=80), st.sampled_from([100, 2**32 - 3]))
def test_a_rollback_leaves_exactly_what_others_wrote(steps: list[str], top: int) -> None:
    nested, places = Nested(top), Subtransactions(top)
    for step in steps:
        if step == "w":
            places.add(nested.stack[-1], len(nested.messages))
            nested.messages.append(nested.stack[-1])
        elif step == "s":
            nested.save()
        elif step == "r":
            nested.release()
        else:
            ended = nested.rolled_back()
            left = [xid for xid in nested.messages if xid not in ended]
            for xid in ended:
                place = places.abort(xid, len(nested.messages))
                assert place <= len(nested.messages)
                del nested.messages[place:]
            assert nested.messages == left
