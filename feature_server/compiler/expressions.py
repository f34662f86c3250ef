"""Scalar SQL over aggregates and latest values → Node trees that a reader evaluates without a database."""

from sqlglot import exp

from ..definitions.stream import Node
from ..dtypes import known_sql_type
from .refusals import Refusals

_OPERATIONS: dict[type[exp.Expr], str] = {
    exp.Add: "+", exp.Sub: "-", exp.Mul: "*", exp.Div: "/", exp.IntDiv: "//", exp.Mod: "%",
    exp.EQ: "=", exp.NEQ: "<>", exp.LT: "<", exp.LTE: "<=", exp.GT: ">", exp.GTE: ">=",
    exp.And: "and", exp.Or: "or", exp.Nullif: "nullif",
    exp.Neg: "neg", exp.Not: "not", exp.Abs: "abs", exp.Ln: "ln", exp.Exp: "exp", exp.Sqrt: "sqrt",
    exp.Floor: "floor", exp.Ceil: "ceil", exp.Sign: "sign",
    exp.Greatest: "greatest", exp.Least: "least", exp.Coalesce: "coalesce",
}  # fmt: skip
SUPPORTED = (
    "scalar functions of the event inside the aggregate, as in last(upper(…)); over aggregates: arithmetic, "
    "comparisons, between, in, and/or/not, is null, case, if, coalesce, nullif, greatest, least, abs, round, floor, "
    "ceil, sign, ln, exp, sqrt, casts to number or boolean types"
)


def read_node(expression: exp.Expr, refusals: Refusals) -> Node:
    """The tree of an expression over columns `g<i>`, an aggregate, and `a<i>`, an argument of the latest event.

    An unsupported function is refused and stands as a null literal.
    """
    expression = _spelled_out(expression.unnest())
    kind = type(expression)
    if isinstance(expression, exp.Column):
        name = expression.name
        return Node("aggregate" if name[0] == "g" else "latest", value=int(name[1:]))
    if isinstance(expression, exp.Literal):
        return Node("literal", value=_constant(expression))
    if isinstance(expression, exp.Boolean | exp.Null):
        return Node("literal", value=expression.to_py())
    if kind in _OPERATIONS and not expression.args.get("decimals"):
        parts = (expression.this, expression.args.get("expression"), *expression.expressions)
        return Node(_OPERATIONS[kind], tuple(read_node(part, refusals) for part in parts if part is not None))
    if isinstance(expression, exp.Is) and isinstance(expression.expression, exp.Null):
        return Node("is null", (read_node(expression.this, refusals),))
    if isinstance(expression, exp.Round):
        digits = expression.args.get("decimals")
        if digits is None or isinstance(digits, exp.Literal):
            return Node("round", (read_node(expression.this, refusals),), 0 if digits is None else int(digits.name))
    if isinstance(expression, exp.Case | exp.If):
        return _case(expression, refusals)
    if kind is exp.Cast:
        return _cast(expression, refusals)
    refusals.add(expression, "a function that cannot be evaluated on live values", SUPPORTED)
    return Node("literal")


def _spelled_out(expression: exp.Expr) -> exp.Expr:
    """BETWEEN, IN and IS [NOT] DISTINCT FROM by comparisons."""
    this = expression.this
    if isinstance(expression, exp.Between) and not expression.args.get("symmetric"):
        low, high = expression.args["low"], expression.args["high"]
        return exp.And(this=exp.GTE(this=this, expression=low), expression=exp.LTE(this=this, expression=high))
    if isinstance(expression, exp.In) and expression.expressions and not expression.args.get("query"):
        return exp.or_(*(exp.EQ(this=this.copy(), expression=one.copy()) for one in expression.expressions))
    if isinstance(expression, exp.NullSafeEQ | exp.NullSafeNEQ):
        other = expression.expression
        both = exp.And(
            this=exp.Is(this=this, expression=exp.null()), expression=exp.Is(this=other, expression=exp.null())
        )
        same = exp.Coalesce(this=exp.EQ(this=this, expression=other), expressions=[both])
        return same if isinstance(expression, exp.NullSafeEQ) else exp.Not(this=same)
    return expression


def _constant(literal: exp.Literal) -> str | int | float:
    text = str(literal.this)
    return text if literal.is_string else int(text) if text.isdigit() else float(text)


def _case(expression: exp.Expr, refusals: Refusals) -> Node:
    """`case` as condition, value, condition, value, …, default."""
    branches = expression.args.get("ifs") if isinstance(expression, exp.Case) else [expression]
    operand = expression.this if isinstance(expression, exp.Case) else None
    parts: list[Node] = []
    for branch in branches or []:
        condition = branch.this if operand is None else exp.EQ(this=operand.copy(), expression=branch.this.copy())
        parts += [read_node(condition, refusals), read_node(branch.args["true"], refusals)]
    default = expression.args.get("default") or expression.args.get("false")
    parts.append(Node("literal") if default is None else read_node(default, refusals))
    return Node("case", tuple(parts))


def _cast(expression: exp.Expr, refusals: Refusals) -> Node:
    target = expression.args["to"].sql(dialect="duckdb")
    dtype = known_sql_type(target)
    if dtype is None or not (dtype.is_number or dtype.kind in ("bool", "decimal")):
        refusals.add(expression, "a cast that cannot be evaluated on live values", SUPPORTED)
    return Node("cast", (read_node(expression.this, refusals),), target.lower())
