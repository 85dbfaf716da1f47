"""What is asked: studies (YAML), the statistics that answer them and the reports that show the answer.

This room never trains anything: `tune` runs the trials and writes them to the tracking store, and `results` and
`report` read them back from there alone.
"""

from ablations.study.study import Study, Trial, list_studies, load_studies, load_study

__all__ = ["Study", "Trial", "list_studies", "load_studies", "load_study"]
