from __future__ import annotations

from tests.settings_table import FILE, proofs, source_of_default, table
from trainer_core.config.fields import field_rows

WITHOUT_EFFECT_ON_RESULTS = {"name"}


def test_every_setting_has_a_test_of_its_effect() -> None:
    shown = proofs()
    assert sorted(set(field_rows()) - set(shown) - WITHOUT_EFFECT_ON_RESULTS) == []


def test_marks_name_settings_that_exist() -> None:
    assert sorted(set(proofs()) - set(field_rows())) == []


def test_every_default_says_where_it_comes_from() -> None:
    assert [path for path, row in field_rows().items() if not source_of_default(row)] == []


def test_the_page_is_up_to_date() -> None:
    assert FILE.read_text(encoding="utf-8") == table(proofs()), "run `make settings-table`"
