"""Ratings of films: every format, a factor model next to one in NumPy, and metrics by hand and by brute force."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rljax
from rljax.envs import recommender
from rljax.envs.recommender import factors

# (user, item, rating, time), in no order of time; ids are not the numbers from 0.
ROWS = [(7, 20, 4, 300), (10, 3, 5, 100), (7, 3, 2, 200), (10, 20, 3, 50), (9, 100, 1, 400)]
FILMS = {3: ("Heat", ("Action", "Crime")), 20: ("M, ein Mörder", ("Crime",))}  # 100 is not described
PEOPLE = {7: ("31", "F", "writer"), 10: ("45", "M", "artist"), 9: ("18", "F", "student")}
GENRES = ["unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime"] + [""] * 12


def flags(kinds):
    return "|".join("1" if name in kinds else "0" for name in GENRES)


def ml_100k(folder):
    ratings = "".join("\t".join(map(str, row)) + "\n" for row in ROWS)
    films = "".join(f"{i}|{title}|01-Jan-1995||http://x|{flags(kinds)}\n" for i, (title, kinds) in FILMS.items())
    people = "".join(f"{i}|{age}|{gender}|{work}|1234\n" for i, (age, gender, work) in PEOPLE.items())
    return {"u.data": ratings, "u.item": films, "u.user": people}, "latin-1"


def ml_1m(folder):
    ratings = "".join("::".join(map(str, row)) + "\n" for row in ROWS)
    films = "".join(f"{i}::{title}::{'|'.join(kinds)}\n" for i, (title, kinds) in FILMS.items())
    people = "".join(f"{i}::{gender}::{age}::{work}::1234\n" for i, (age, gender, work) in PEOPLE.items())
    return {"ratings.dat": ratings, "movies.dat": films, "users.dat": people}, "latin-1"


def ml_latest(folder):
    ratings = "userId,movieId,rating,timestamp\n" + "".join(",".join(map(str, row)) + "\n" for row in ROWS)
    films = "movieId,title,genres\n" + "".join(f'{i},"{t}",{"|".join(kinds)}\n' for i, (t, kinds) in FILMS.items())
    return {"ratings.csv": ratings, "movies.csv": films}, "utf-8"


def recbole(folder):
    ratings = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
    ratings += "".join("\t".join(map(str, row)) + "\n" for row in ROWS)
    films = "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
    films += "".join(f"{i}\t{title}\t1995\t{' '.join(kinds)}\n" for i, (title, kinds) in FILMS.items())
    people = "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token\n"
    people += "".join(f"{i}\t{age}\t{gender}\t{work}\t1234\n" for i, (age, gender, work) in PEOPLE.items())
    return {"x.inter": ratings, "x.item": films, "x.user": people}, "utf-8"


def written(folder, form, changes=None):
    files, encoding = form(folder)
    for name, text in {**files, **(changes or {})}.items():
        (folder / name).write_text(text, encoding=encoding)
    return folder


@pytest.mark.parametrize("form", [ml_100k, ml_1m, ml_latest, recbole])
def test_every_format_gives_the_same_ratings(tmp_path, form):
    found = recommender.from_movielens(written(tmp_path, form))
    assert found.user_ids == ("7", "9", "10")
    assert found.item_ids == ("3", "20", "100")
    assert found.shape == (3, 3)
    rows = list(zip(found.user, found.item, found.rating, found.time, strict=True))
    assert rows == [(2, 1, 3, 50), (2, 0, 5, 100), (0, 0, 2, 200), (0, 1, 4, 300), (1, 2, 1, 400)]
    assert found.titles == ("Heat", "M, ein Mörder", "")
    assert found.genres == (("Action", "Crime"), ("Crime",), ())
    known = {"age": ("31", "18", "45"), "gender": ("F", "F", "M"), "occupation": ("writer", "student", "artist")}
    assert found.users == ({} if form is ml_latest else known)
    past = recommender.histories(found)
    assert [rows.tolist() for rows in past] == [[2, 3], [4], [0, 1]]
    train, test = recommender.split_by_time(found, 0.6)
    assert train.time.tolist() == [50, 100, 200]
    assert test.time.tolist() == [300, 400]
    assert test.shape == (3, 3)


def test_films_and_people_need_not_be_known(tmp_path):
    (tmp_path / "u.data").write_text("1\t2\t3\t4\n")
    found = recommender.from_movielens(tmp_path)
    assert (found.users, found.titles, found.genres) == ({}, ("",), ((),))


def test_a_malformed_line_is_one_sentence_with_file_and_line(tmp_path):
    for form, changes, text in [
        (ml_100k, {"u.data": "1\t2\t3\t4\n1\t2\t3\n"}, r"u\.data, line 2: it has 3 fields and line 1 4"),
        (ml_100k, {"u.data": "1\t2\tgood\t4\n"}, r"u\.data, line 1: rating must be a number in \[0, 5\], got 'good'"),
        (ml_100k, {"u.data": "1\t2\t7\t4\n"}, r"line 1: rating must be a number in \[0, 5\], got '7'"),
        (ml_100k, {"u.data": "1\t2\t3\tnan\n"}, "line 1: timestamp must be a number of at least 0"),
        (ml_100k, {"u.data": "1,2,3,4\n"}, r"line 1: it has 1 fields and ratings need 4"),
        (ml_100k, {"u.data": ""}, "has no ratings"),
        (ml_100k, {"u.item": "1|Heat\n"}, r"u\.item, line 1: it has 2 fields"),
        (ml_1m, {"ratings.dat": "1::2::3::4\n\n1::2::x::4\n"}, r"ratings\.dat, line 3: rating"),
        (ml_latest, {"ratings.csv": "userId,movieId,rating\n"}, r"ratings\.csv, line 1: the columns timestamp are"),
        (ml_latest, {"ratings.csv": "userId,movieId,rating,timestamp\n1,2,3\n"}, "line 2: it has 3 fields"),
        (recbole, {"x.inter": "user_id:token\titem_id:token\n1\t2\n"}, "columns rating, timestamp are missing"),
    ]:  # fmt: skip
        folder = tmp_path / f"{form.__name__}{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        with pytest.raises(rljax.UsageError, match=text) as error:
            recommender.from_movielens(written(folder, form, changes))
        assert "\n" not in str(error.value)
    with pytest.raises(rljax.UsageError, match=r"needs one of the files u\.data, ratings\.dat"):
        recommender.from_movielens(tmp_path / "nowhere")


def made_up(people=30, films=20, seed=0):
    """Ratings of a factor model with two factors and little noise."""
    rng = np.random.default_rng(seed)
    stars = 3 + 0.4 * rng.normal(size=(people, 1)) + 0.4 * rng.normal(size=films)
    stars = stars + 0.5 * rng.normal(size=(people, 2)) @ rng.normal(size=(2, films))
    user, item = np.nonzero(rng.random((people, films)) < 0.6)
    order = rng.permutation(len(user))
    user, item = user[order], item[order]
    ids = (tuple(map(str, range(people))), tuple(map(str, range(films))))
    rating = np.clip(stars[user, item] + 0.05 * rng.normal(size=len(user)), 0.5, 5)
    return recommender.Ratings(
        user, item, rating, np.arange(len(user)), *ids, {}, ("",) * films, (("Drama",), ("War",)) * (films // 2)
    )


def als_in_numpy(ratings, items, penalty, sweeps):
    """Person by person and film by film, in float64."""
    people, films = ratings.shape
    mean = ratings.rating.mean()
    of_users = np.zeros((people, 1 + items.shape[1]))
    of_items = np.concatenate([np.zeros((films, 1)), items], axis=1)

    def solve(x, y):
        return np.linalg.solve(x.T @ x + penalty * len(y) * np.eye(x.shape[1]), x.T @ y)

    for _ in range(sweeps):
        for mine, other, mine_of, other_of in (
            (ratings.user, ratings.item, of_users, of_items),
            (ratings.item, ratings.user, of_items, of_users),
        ):
            for one in range(len(mine_of)):
                rows = mine == one
                theirs = other_of[other[rows]]
                x = np.concatenate([np.ones((rows.sum(), 1)), theirs[:, 1:]], axis=1)
                mine_of[one] = solve(x, ratings.rating[rows] - mean - theirs[:, 0])
    return mean + of_users[:, :1] + of_items[:, 0] + of_users[:, 1:] @ of_items[:, 1:].T


def test_alternating_least_squares_equals_an_independent_one():
    ratings = made_up()
    model = recommender.fit_factors(ratings, factors=3, regularization=0.05, iterations=4)
    items = 0.1 * np.asarray(jax.random.normal(jax.random.key(0), (20, 3)), np.float64)
    expected = als_in_numpy(ratings, items, 0.05, 4)
    np.testing.assert_allclose(recommender.predictions(model), expected, atol=2e-3)


def test_a_factor_model_predicts_what_was_held_out_and_knows_new_people_better_with_each_rating():
    ratings = made_up(80, 40)
    train, test = recommender.split_by_time(ratings)
    model = recommender.fit_factors(train, factors=2, regularization=0.01)
    errors = recommender.rating_errors(recommender.predictions(model), test, low=0.5)
    assert errors["rmse"] < 0.2
    people = np.arange(20)
    others = recommender.without_people(ratings, people)
    assert set(others.user) == set(range(20, 80))
    model = recommender.fit_factors(others, factors=2, regularization=0.01)
    curve = recommender.cold_start_curve(model, ratings, people, (0, 2, 15), regularization=0.001)
    assert curve["rmse"][0] > curve["rmse"][1] > 3 * curve["rmse"][2]
    with pytest.raises(rljax.UsageError, match="more than 40 ratings"):
        recommender.cold_start_curve(model, ratings, people, (0, 40))


def test_folding_in_the_same_ratings_gives_the_same_person():
    ratings = made_up()
    model = recommender.fit_factors(ratings, factors=3, regularization=0.05, iterations=200)
    stars, known = factors.dense(ratings)
    found = recommender.fold_in(model, stars, known, regularization=0.05, least=1)
    np.testing.assert_allclose(found, recommender.predictions(model), atol=0.02)
    none = recommender.fold_in(model, stars, jnp.zeros_like(known))
    np.testing.assert_allclose(none, np.broadcast_to(model.mean + model.item_bias, none.shape), rtol=1e-5)


def of(pairs, people, films, stars=None):
    user, item = np.array(pairs, int).reshape(-1, 2).T
    ids = (tuple(map(str, range(people))), tuple(map(str, range(films))))
    rating = np.full(len(user), 5.0) if stars is None else np.array(stars, float)
    return recommender.Ratings(user, item, rating, np.zeros(len(user)), *ids, {}, (), ())


def test_ranking_metrics_equal_values_worked_out_by_hand():
    # Person 0 is recommended 2, 1 and finds 1; person 1 is recommended 0, 3 and finds both; person 2 likes nothing.
    scores = np.array([[9, 3, 4, 1, 0], [5, 1, 2, 4, 3], [1, 1, 1, 1, 1]])
    train = of([(0, 0), (1, 1), (2, 0), (2, 1), (2, 0)][:4], 3, 5)
    # A film that was already seen counts for nothing when it is liked again.
    test = of([(0, 1), (0, 4), (0, 0), (1, 0), (1, 3), (2, 4)], 3, 5, [5, 4, 5, 5, 4, 2])
    found = recommender.ranking_metrics(scores, train, test, k=2)
    second = 1 / np.log2(3)
    assert found["precision"] == pytest.approx((0.5 + 1) / 2)
    assert found["recall"] == pytest.approx((0.5 + 1) / 2)
    assert found["hit_rate"] == 1
    assert found["ndcg"] == pytest.approx((second / (1 + second) + 1) / 2)
    assert found["coverage"] == pytest.approx(4 / 5)  # items 0, 1, 2 and 3
    assert found["tail_coverage"] == pytest.approx(3 / 4)  # without item 0, the head
    assert found["popularity_bias"] == pytest.approx(((0 + 2 + 2 + 0) / 4) / 2)
    assert recommender.rating_errors(np.array([[9.0, 4.5]]), of([(0, 0), (0, 1)], 1, 2, [4, 5])) == {
        "rmse": pytest.approx(np.sqrt((1 + 0.25) / 2)),
        "mae": pytest.approx(0.75),
    }


def test_ranking_metrics_equal_a_brute_force():
    rng = np.random.default_rng(0)
    train, test = recommender.split_by_time(made_up(25, 16, seed=3), 0.6)
    scores = rng.normal(size=(25, 16))
    found = recommender.ranking_metrics(scores, train, test, k=4, relevant=3.0)
    each, listed = [], []
    for user in range(25):
        seen = set(train.item[train.user == user])
        wanted = set(test.item[(test.user == user) & (test.rating >= 3)]) - seen
        if not wanted:
            continue
        ranked = sorted((i for i in range(16) if i not in seen), key=lambda i, user=user: -scores[user, i])[:4]
        hits = [item in wanted for item in ranked]
        ideal = sum(1 / np.log2(j + 2) for j in range(min(4, len(wanted))))
        gain = sum(hit / np.log2(j + 2) for j, hit in enumerate(hits))
        each.append((sum(hits) / 4, sum(hits) / len(wanted), gain / ideal, any(hits)))
        listed += ranked
    means = np.mean(each, axis=0)
    assert [found[name] for name in ("precision", "recall", "ndcg", "hit_rate")] == pytest.approx(means.tolist())
    assert found["coverage"] == len(set(listed)) / 16


def test_simulated_people_have_the_predicted_tastes():
    ratings = made_up()
    model = recommender.fit_factors(ratings, factors=3)
    env = recommender.simulated_users(ratings, model, items=6, sharpness=2.0, drift=0.0)
    counts = np.bincount(ratings.item)
    kept = np.argsort(-counts, kind="stable")[:6]
    items = env.params.catalogue
    affinities = np.asarray(items.tastes) @ np.asarray(items.embeddings).T
    np.testing.assert_allclose(affinities, np.asarray(model.users @ model.items.T)[:, kept], atol=1e-4)
    np.testing.assert_allclose(items.appeal, 2 * np.asarray(model.item_bias)[kept], rtol=1e-5)
    np.testing.assert_allclose(items.popularity, counts[kept] / counts[kept].sum(), rtol=1e-5)
    assert items.categories.tolist() == (kept % 2).tolist()
    found = rljax.play(jax.random.key(0), env, recommender.most_popular(env), 8)
    assert np.all(found.measures["clicks"] <= found.measures["length"])
