"""Where a rollback cuts what was kept of an open transaction, and what lies where one was not told."""

from hypothesis import given, settings
from hypothesis import strategies as st

from replicator.pgoutput.streamed import Subtransactions


class Nested:
    """Subtransactions as a session has them: what each has written, and what is left."""

    def __init__(self, top: int) -> None:
        self.top, self.stack, self.next_xid = top, [top], top + 1
        self.messages: list[int] = []
        self.merged: dict[int, list[int]] = {top: []}
        self.untold: dict[int, int] = {}
        """Those that were rolled back untold, by the one that goes on then."""

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

    def roll_back_untold(self) -> None:
        for ended in self.rolled_back():
            self.untold[ended] = self.stack[-1]

    def is_inside(self, xid: int, ended: list[int]) -> bool:
        """Whether it is one of these, or was inside of one, perhaps over several steps."""
        while xid in self.untold:
            xid = self.untold[xid]
        return xid in ended


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from("wwwwsrbu"), max_size=80), st.sampled_from([100, 2**32 - 3]))
def test_a_rollback_leaves_exactly_what_others_wrote(steps: list[str], top: int) -> None:
    """Also where some are not told ("u"), and what they left is found by their spans at the commit."""
    nested, places = Nested(top), Subtransactions(top)
    for step in steps:
        if step == "w":
            places.add(nested.stack[-1], len(nested.messages))
            nested.messages.append(nested.stack[-1])
        elif step == "s":
            nested.save()
        elif step == "r":
            nested.release()
        elif step == "u":
            nested.roll_back_untold()
        else:
            ended = nested.rolled_back()
            left = [xid for xid in nested.messages if not nested.is_inside(xid, ended)]
            for xid in ended:
                place = places.abort(xid, len(nested.messages))
                assert place <= len(nested.messages)
                del nested.messages[place:]
            # of an untold one inside, something stays if the other has written nothing itself
            assert [xid for xid in nested.messages if xid not in nested.untold] == [
                xid for xid in left if xid not in nested.untold
            ]
    # one whose rollback was told may be among them: asking for it once more finds nothing to leave out
    assert set(places.xids) >= set(nested.messages) - {top}
    left_out = [n for start, end in places.spans(nested.untold, len(nested.messages)) for n in range(start, end)]
    assert left_out == [n for n, xid in enumerate(nested.messages) if xid in nested.untold]
