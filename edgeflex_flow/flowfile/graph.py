"""A flow as a Mermaid diagram."""

from __future__ import annotations

from edgeflex_flow.flowfile.plan import Plan, PlannedNode
from edgeflex_flow.flowfile.wires import describe
from edgeflex_flow.node import DEFAULT_PORT, FLOW_WIRES, SinkNode, SourceNode, Wire


def role(node: PlannedNode) -> str:
    """`source`, `operator` or `sink`."""
    if isinstance(node.node, SourceNode):
        return "source"
    return "sink" if isinstance(node.node, SinkNode) else "operator"


def kind_words(node: PlannedNode) -> str:
    """The kind of a node, and which policies may change its settings."""
    policies = sorted({binding.policy for binding in node.policies.values()})
    if not policies:
        return node.node.kind
    shown = ", ".join([*policies[:2], *(["…"] if len(policies) > 2 else [])])
    return f"{node.node.kind} · {'policy' if len(policies) == 1 else 'policies'} {shown}"


def output_wires(plan: Plan) -> dict[str, Wire | None]:
    """What each node gives, wires of the flow itself included."""
    return {**FLOW_WIRES, **{node.id: node.wire for node in plan.nodes}}


_SHAPES = {"source": ('(["', '"])'), "operator": ('["', '"]'), "sink": ('[/"', '"/]')}


def to_mermaid(plan: Plan) -> str:
    """The flow as the text of a Mermaid flowchart, from left to right."""
    lines = ["flowchart LR"]
    for node in plan.nodes:
        left, right = _SHAPES[role(node)]
        lines.append(f"  n_{node.id}{left}{_text(node.id)}<br/><small>{_text(kind_words(node))}</small>{right}")
    lines += [f'  n_{name}{{{{"{name}"}}}}' for name in plan.flow_wires]
    wires = output_wires(plan)
    for node in plan.nodes:
        for port, sources in node.inputs.items():
            for source in sources:
                wire = wires[source]
                carried = "<br/>".join(_text(line) for line in describe(wire)) if wire else "?"
                into = "" if port == DEFAULT_PORT else f"<br/>→ {_text(port)}"
                lines.append(f'  n_{source} -->|"{carried}{into}"| n_{node.id}')
    lines += [
        "  classDef source fill:#ccfbf1,stroke:#0f766e,color:#042f2e",
        "  classDef operator fill:#e0e7ff,stroke:#4338ca,color:#1e1b4b",
        "  classDef sink fill:#fef3c7,stroke:#b45309,color:#451a03",
    ]
    for name in ("source", "operator", "sink"):
        members = ",".join(f"n_{node.id}" for node in plan.nodes if role(node) == name)
        if members:
            lines.append(f"  class {members} {name}")
    return "\n".join(lines) + "\n"


def _text(text: str) -> str:
    """Text that means nothing to Mermaid: it reads `#nn;` as a character and the rest as HTML."""
    return "".join(each if each.isalnum() or each in " _-.,·…→/" else f"#{ord(each)};" for each in text)
