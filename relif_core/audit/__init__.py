"""Fixed-tolerance auditing of multi-task models: exact and sampled, with uncertainty, on NumPy alone."""

from relif_core.audit.card import CARD_SCHEMA, Card, audit_card, card_html, card_markdown
from relif_core.audit.comparison import (
    Comparison,
    RankingCertificate,
    compare,
    drift_budget,
    ranking_certificate,
)
from relif_core.audit.exact import BiasCurve, bias_curve
from relif_core.audit.individual import (
    IndividualAudit,
    IndividualRow,
    SimilarPairs,
    lipschitz_limit,
    same_subject_audit,
    similar_pair_audit,
    similar_pairs,
)
from relif_core.audit.marginals import BiasParts, bias_parts, coupling_bounds, shrunk
from relif_core.audit.protocol import audit
from relif_core.audit.result import AuditContext, AuditResult, PairAudit
from relif_core.audit.ruler import MappedScores, Ruler, ScoreMap, calibrate
from relif_core.audit.sketch import HistogramSketch
from relif_core.audit.sketch_result import InfluenceSums, SketchAudit
from relif_core.audit.tolerance import (
    calibration_pairs,
    conformal_tolerance,
    induced_tolerances,
    reference_distances,
)
from relif_core.audit.uncertainty import Influences, subject_bootstrap
from relif_core.audit.workflow import Audit, NamedComparison

__all__ = [
    "CARD_SCHEMA",
    "Audit",
    "AuditContext",
    "AuditResult",
    "BiasCurve",
    "BiasParts",
    "Card",
    "Comparison",
    "HistogramSketch",
    "IndividualAudit",
    "IndividualRow",
    "InfluenceSums",
    "Influences",
    "MappedScores",
    "NamedComparison",
    "PairAudit",
    "RankingCertificate",
    "Ruler",
    "ScoreMap",
    "SimilarPairs",
    "SketchAudit",
    "audit",
    "audit_card",
    "bias_curve",
    "bias_parts",
    "calibrate",
    "calibration_pairs",
    "card_html",
    "card_markdown",
    "compare",
    "conformal_tolerance",
    "coupling_bounds",
    "drift_budget",
    "induced_tolerances",
    "lipschitz_limit",
    "ranking_certificate",
    "reference_distances",
    "same_subject_audit",
    "shrunk",
    "similar_pair_audit",
    "similar_pairs",
    "subject_bootstrap",
]
