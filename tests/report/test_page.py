from neuroevo.report import page


def test_whatever_is_shown_is_escaped() -> None:
    bad = "<i>&\"'\x1b]0;\r\udce9"
    parts = [
        page.name_table([(bad, bad)]), page.grid([bad, bad], [[bad, bad]], bad), page.figure("", bad, bad),
        page.details(bad, ""), page.text(bad), page.note(bad), page.section(bad, " "), page.document(bad, ""),
    ]  # fmt: skip
    for part in parts:
        assert "<i>&" not in part
        assert "&lt;i&gt;&amp;" in part
        assert not any(ord(c) < 32 and c != "\n" for c in part)
        assert r"\x1b]0;\r\xe9" in part
        part.encode()


def test_figures_are_rounded_for_a_reader_and_counts_are_whole() -> None:
    given = [0.5, 0.00012345, 123456.7, 1234567, None, "", "text", [0.25, 0.75], [], True, 0.0]
    assert [page.number(value) for value in given] == [
        "0.5000", "0.000123", "123,457", "1,234,567", "-", "-", "text", "0.2500 to 0.7500", "none", "True", "0.0000",
    ]  # fmt: skip


def test_nested_results_become_rows() -> None:
    assert page.flat({"a": {"b_c": 1, "d": {"e": 0.5}}, "f": "g"}) == [("a b c", "1"), ("a d e", "0.5000"), ("f", "g")]


def test_a_section_without_anything_in_it_is_left_out() -> None:
    assert page.section("title", "", "") == ""


def test_only_a_served_page_loads_itself_again() -> None:
    assert "refresh" not in page.document("t", "")
    assert '<meta http-equiv="refresh" content="5">' in page.document("t", "", 5)
