"""Whether bytes are a pickle, of any protocol, told without building a single object.

Protocols 2 to 5 announce themselves. Protocols 0 and 1 do not: there the opcodes are followed, as a loader would, with
an eye on the depth of its stack, which text that happens to be made of opcodes does not survive.
"""

import io
import pickletools

_LOOKED_AT = 4_096
_ENOUGH = 12
"""So many opcodes in a row that leave the stack sound are no accident, even if the bytes end before STOP."""
_MOST_OPCODES = 2_000
_CALLING = frozenset({"GLOBAL", "INST", "OBJ", "REDUCE", "BUILD"})


def looks_pickled(head: bytes) -> bool:
    """Whether the first bytes of a file are those of a pickle; fewer than a few kilobytes make it less sure."""
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return len(head) > 2 and chr(head[2]) in pickletools.code2op  # type: ignore[attr-defined]  # not in its stub
    return _follows(head[:_LOOKED_AT], whole=len(head) <= _LOOKED_AT)


def _follows(head: bytes, *, whole: bool) -> bool:
    stack: list[bool] = []  # True is a mark
    steps, calls = 0, 0
    stream = io.BytesIO(head)
    try:
        for opcode, _, _ in pickletools.genops(stream):
            if opcode.name == "STOP":
                return steps >= 2 and len(stack) == 1
            if not _step(opcode, stack) or steps > _MOST_OPCODES:
                return False
            steps += 1
            calls += opcode.name in _CALLING
    except Exception:  # an argument that is malformed, which a cut one is too
        cut = not whole and stream.tell() == len(head)
        return cut and (calls > 0 or steps >= _ENOUGH)
    return steps >= _ENOUGH


def _step(opcode: pickletools.OpcodeInfo, stack: list[bool]) -> bool:
    """Do to the stack of marks what the opcode does; False where it cannot."""
    before = opcode.stack_before
    if pickletools.markobject in before:
        if True not in stack:
            return False
        while not stack.pop():
            pass
        before = before[: before.index(pickletools.markobject)]
    elif opcode.name == "POP" and stack:  # may take a mark as well
        stack.pop()
        return True
    for _ in before:
        if not stack or stack.pop():
            return False
    stack.extend(item is pickletools.markobject for item in opcode.stack_after)
    return True
