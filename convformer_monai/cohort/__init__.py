"""Many cases through one bundle: a folder in this process, or a cohort on many processes and machines.

:mod:`~convformer_monai.cohort.folder` is what ``convformer-monai segment`` does. ``convformer-monai cohort`` reads a
:mod:`~convformer_monai.cohort.manifest`, :mod:`~convformer_monai.cohort.plan` says what is to be done,
:mod:`~convformer_monai.cohort.run` hands it to the workers of an :mod:`~convformer_monai.cohort.engines` engine, where
:mod:`~convformer_monai.cohort.worker` does one case and keeps its :mod:`~convformer_monai.cohort.status`.
"""

from convformer_monai.cohort.folder import CaseResult, Summary, log_flags, segment_cases

__all__ = ["CaseResult", "Summary", "log_flags", "segment_cases"]
