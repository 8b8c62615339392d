"""Asserts taken apart: what is asked of the program runs inside, what it is compared with stays here.

    assert f(2) == 4        asks `f(2)`, checks `== 4`
    assert f(2)             asks `bool(f(2))`, checks `is True`

A program could make every comparison true that runs beside it (`__eq__`, patched builtins, frames), so none does: an
assert must be a question on one side and a literal on the other. Also taken: `not f(x)`, `!=`, `<`, `in`, `is None`,
`abs(f(x) - 1.5) < 1e-6`, `math.isclose(f(x), 1.5, rel_tol=0.001)`, asserts joined by `and`, names of literals assigned
before, imports, and HumanEval's `def check(candidate):`. What cannot be taken apart is a ValueError that says so.
"""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from rewarders.code_answers import ORDERS, Among, Check, Equal, Holds, Near, Ordered, Same, is_real

WRAPPERS = (abs, bool, dict, float, frozenset, int, len, list, max, min, round, set, sorted, str, sum, tuple)
"""Builtins through which an answer may go: what they make of it has still to equal the literal."""
BUILTINS = frozenset(dir(builtins))
CONTAINERS = {"set": set, "frozenset": frozenset, "list": list, "tuple": tuple, "dict": dict}
LONGEST = 200_000
"""Characters of a script."""


@dataclass(frozen=True, slots=True)
class Assert:
    """One assert: `ask` is a tuple expression with one item per check."""

    prepare: str
    ask: str
    checks: tuple[Check, ...]


@dataclass(slots=True)
class _Known:
    """What the statements before an assert have brought."""

    imports: list[str] = field(default_factory=list)
    imported: set[str] = field(default_factory=set)
    literals: dict[str, Any] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    """Of the literals."""
    alias: tuple[str, str] | None = None
    """HumanEval's `candidate`, and the function that it stands for."""


def read_asserts(script: str, entry_point: str = "") -> list[Assert]:
    """The asserts of a script. Raises ValueError that names the line and what cannot be taken apart."""
    known, found = _Known(), []
    statements = _parsed(script).body
    called = next((name for s in statements if (name := _argument_of_check(s))), entry_point)
    for statement in _flat(statements, called, known):
        if isinstance(statement, ast.Assert):
            pairs = [_taken_apart(part, known) for part in _conjuncts(statement.test)]
            found.append(_assert(pairs, known))
        else:
            _learn(statement, known)
    if not found:
        raise ValueError("there is no assert in it")
    return found


def read_question(source: str) -> str:
    """A call to be asked of the program. Raises ValueError where it is anything else."""
    try:
        node = ast.parse(source, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"`{_short(source)}` is not a call: {error}") from error
    if not isinstance(node, ast.Call):
        raise ValueError(f"`{_short(source)}` is not a call")  # noqa: TRY004 - of a text, not of an object
    _demand_question(node, _Known())
    return ast.unparse(node)


def _parsed(script: str) -> ast.Module:
    if len(script) > LONGEST:
        raise ValueError(f"{len(script)} characters; wanted at most {LONGEST}")
    try:
        return ast.parse(script)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"it is not Python: {error}") from error


def _flat(statements: list[ast.stmt], called: str, known: _Known) -> Iterator[ast.stmt]:
    """The statements, with the body of `check` in its place and its argument's meaning known."""
    for statement in statements:
        match statement:
            case ast.FunctionDef(name="check", args=ast.arguments(args=[ast.arg(arg=name)]), decorator_list=[]):
                if not called:
                    raise ValueError("it defines `check` and nobody says of which function: set `entry_point`")
                known.alias = (name, called)
                yield from statement.body
            case ast.Expr(value=ast.Constant()) | ast.Pass():
                pass
            case _ if _argument_of_check(statement):
                pass
            case _:
                yield statement


def _argument_of_check(statement: ast.stmt) -> str:
    match statement:
        case ast.Expr(value=ast.Call(func=ast.Name(id="check"), args=[ast.Name(id=name)], keywords=[])):
            return name
    return ""


def _learn(statement: ast.stmt, known: _Known) -> None:
    match statement:
        case ast.Import(names=names) | ast.ImportFrom(names=names):
            known.imports.append(ast.unparse(statement))
            known.imported |= {(each.asname or each.name).partition(".")[0] for each in names}
        case ast.Assign(targets=[ast.Name(id=name)], value=value):
            known.literals[name] = literal(value, known)
            known.sources[name] = ast.unparse(value)
        case ast.Expr(value=ast.Constant()) | ast.Pass():
            pass
        case _:
            raise ValueError(f"line {statement.lineno} does more than assert: `{_short(ast.unparse(statement))}`")


def _conjuncts(node: ast.expr) -> list[ast.expr]:
    if isinstance(node, ast.BoolOp) and isinstance(node.op, ast.And):
        return [part for value in node.values for part in _conjuncts(value)]
    return [node]


def _assert(pairs: list[tuple[ast.expr, Check]], known: _Known) -> Assert:
    ask = ast.unparse(ast.Tuple([question for question, _ in pairs], ast.Load()))
    used = {node.id for question, _ in pairs for node in ast.walk(question) if isinstance(node, ast.Name)}
    lines = [*known.imports, *(f"{name} = {known.sources[name]}" for name in known.sources if name in used)]
    if known.alias:
        lines.append(" = ".join(known.alias))
    return Assert("\n".join(lines), ask, tuple(check for _, check in pairs))


def _taken_apart(node: ast.expr, known: _Known) -> tuple[ast.expr, Check]:
    """What to ask and what the answer has to be. Raises ValueError."""
    try:
        match node:
            case ast.Compare(left=left, ops=[op], comparators=[right]):
                return _comparison(left, type(op).__name__, right, known)
            case ast.UnaryOp(op=ast.Not(), operand=ast.Call() as call):
                return _truth(call, False, known)
            case ast.Call(func=ast.Attribute(value=ast.Name(id="math"), attr="isclose") | ast.Name(id="isclose")):
                return _close(node, known)
            case ast.Call():
                return _truth(node, True, known)
    except ValueError as error:
        reason = str(error)
    else:
        reason = "wanted a call compared with a literal"
    raise ValueError(f"line {node.lineno}, `{_short(ast.unparse(node))}` cannot be judged from outside: {reason}")


def _truth(call: ast.Call, wanted: bool, known: _Known) -> tuple[ast.expr, Check]:
    name = call.func.id if isinstance(call.func, ast.Name) else ""
    if name in BUILTINS:
        raise ValueError(f"`{name}` would be the program's to decide")
    _demand_question(call, known)
    return ast.Call(ast.Name("bool", ast.Load()), [call], []), Same(wanted)


def _comparison(left: ast.expr, op: str, right: ast.expr, known: _Known) -> tuple[ast.expr, Check]:
    if op in ORDERS and (near := _near(left, op, right, known)):
        return near
    flipped = not _is_literal(right, known)
    question, other = (right, left) if flipped else (left, right)
    wanted = literal(other, known)
    _demand_question(question, known)
    return question, _check(op, wanted, flipped)


def _check(op: str, wanted: Any, flipped: bool) -> Check:
    if op in ("Is", "IsNot"):
        if wanted is not None and not isinstance(wanted, bool):
            raise ValueError("only None, True and False are compared with `is`")
        return Same(wanted, negate=op == "IsNot")
    if op in ("Eq", "NotEq"):
        return Equal(wanted, negate=op == "NotEq")
    if op in ORDERS:
        if not is_real(wanted) and not isinstance(wanted, str):
            raise ValueError("only numbers and texts are ordered")
        mirror = {"Lt": "Gt", "LtE": "GtE", "Gt": "Lt", "GtE": "LtE"}
        return Ordered(ORDERS[mirror[op] if flipped else op], wanted)
    if op == "In":
        if flipped:
            return Holds(wanted)
        if isinstance(wanted, (str, list, tuple, set, frozenset, dict)):
            return Among(wanted)
    raise ValueError(f"the comparison {op} is not one of those")


def _near(left: ast.expr, op: str, right: ast.expr, known: _Known) -> tuple[ast.expr, Check] | None:
    """`abs(question - literal) < literal`."""
    match left:
        case ast.Call(func=ast.Name(id="abs"), args=[ast.BinOp(left=a, op=ast.Sub(), right=b)], keywords=[]):
            question, other = (b, a) if _is_literal(a, known) else (a, b)
            within, wanted = literal(right, known), literal(other, known)
            _demand_question(question, known)
            if op not in ("Lt", "LtE") or not is_real(within) or not is_real(wanted):
                raise ValueError("wanted a number and a tolerance")
            return question, Near(wanted, within, closed=op == "LtE")
    return None


def _close(node: ast.Call, known: _Known) -> tuple[ast.expr, Check]:
    if len(node.args) != 2:
        raise ValueError("wanted two numbers")
    a, b = node.args
    question, other = (b, a) if _is_literal(a, known) else (a, b)
    wanted = literal(other, known)
    given = {str(keyword.arg): literal(keyword.value, known) for keyword in node.keywords}
    if not all(is_real(value) for value in (wanted, *given.values())) or not given.keys() <= {"rel_tol", "abs_tol"}:
        raise ValueError("wanted numbers and tolerances")
    if any(value < 0 for value in given.values()):
        raise ValueError("a tolerance is negative")
    _demand_question(question, known)
    return question, Near(wanted, **given)


def _demand_question(node: ast.expr, known: _Known) -> None:
    """Raise ValueError unless an answer to it must be known to be given: nothing in it compares or decides."""
    match node:
        case ast.Call(func=ast.Name(id=name), args=[first, *rest]) if getattr(builtins, name, None) in WRAPPERS:
            if not all(_is_literal(argument, known) for argument in rest):
                raise ValueError(f"`{name}` has more than one question")
            _demand_question(first, known)
        case ast.Call(func=ast.Name(id=name)):
            _demand_foreign(name, known)
        case ast.Call(func=ast.Attribute(value=ast.Name(id=name))):
            _demand_foreign(name, known)
        case ast.Call(func=ast.Attribute(value=ast.Call(func=ast.Name(id=name), args=[], keywords=[]))):
            _demand_foreign(name, known)  # a method of a new object: Solution().f(2)
        case ast.Call(func=ast.Attribute(value=value), args=[], keywords=[]):
            _demand_question(value, known)
        case ast.Subscript(value=value, slice=which) if _is_literal(which, known) or isinstance(which, ast.Slice):
            _demand_question(value, known)
        case ast.Attribute(value=value):
            _demand_question(value, known)
        case ast.Name(id=name) if name not in known.literals:
            _demand_foreign(name, known)
        case _:
            raise ValueError(f"`{_short(ast.unparse(node))}` is not a call of the program's")


def _demand_foreign(name: str, known: _Known) -> None:
    if name in BUILTINS or name in known.imported:
        raise ValueError(f"`{name}` is not the program's")


def _is_literal(node: ast.expr, known: _Known) -> bool:
    try:
        literal(node, known)
    except ValueError:
        return False
    return True


def literal(node: ast.expr, known: _Known) -> Any:
    """The value of a literal, of a name of one, or of `set(...)`, `float("inf")` and the like. Raises ValueError."""
    match node:
        case ast.Name(id=name) if name in known.literals:
            return known.literals[name]
        case ast.Call(func=ast.Name(id=name), args=[*arguments], keywords=[]) if name in CONTAINERS:
            if len(arguments) <= 1:
                return _made(CONTAINERS[name], [literal(argument, known) for argument in arguments])
        case ast.Call(func=ast.Name(id="float"), args=[ast.Constant(value=str(text))], keywords=[]):
            return float(text)
        case ast.UnaryOp(op=ast.USub(), operand=ast.Call() as call):
            value = literal(call, known)
            if isinstance(value, float):
                return -value
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError(f"`{_short(ast.unparse(node))}` is not a literal") from error


def _made(kind: Any, arguments: list[Any]) -> Any:
    try:
        return kind(*arguments)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{kind.__name__} of that: {error}") from error


def _short(source: str) -> str:
    return source if len(source) <= 80 else source[:77] + "..."
