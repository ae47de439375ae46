"""`where`: a CEL expression over an event, which is a user's and can neither grow nor last."""

from upshot.core.where.condition import Verdict, Where, compile_where

__all__ = ["Verdict", "Where", "compile_where"]
