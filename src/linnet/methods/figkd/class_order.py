"""In which order classes stand side by side: neighbours in the order are what a wavelet along the classes compares.

Shapes: C classes, E width of whatever stands for a class.
"""

import networkx
import numpy as np
from scipy.cluster.hierarchy import leaves_list, linkage

# classes among which a partner is sought: for 200 vectors in clusters as good as all, in a tenth of the time
NEAREST = 16
# classes above which pairs are taken greedily and the leaves of a clustering are not turned: exactly, 2,000 take
# minutes, and the time grows with the cube of their number
MANY = 1000


def semantic_order(vectors_CE: np.ndarray, levels: int) -> np.ndarray:
    """(C,) class ids, look-alike classes side by side.

    For one level the classes are paired so that the sum of similarities within pairs is largest (maximum-weight
    matching), and the pairs are ordered by seriation; of an odd number of classes the one left over comes last. For
    several levels the order is that of the leaves of a hierarchical clustering (average linkage), turned so that
    neighbouring leaves are as near as they can be (Bar-Joseph et al. 2001). Of more than 1,000 classes the pairs are
    taken greedily, the most alike first, and the leaves are not turned.

    Args:
        vectors_CE: one vector per class; classes are alike whose vectors, centred over the classes, have a large
            cosine.
        levels: of the wavelet transform.
    """
    centred = vectors_CE - vectors_CE.mean(axis=0)
    unit_CE = centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)
    if levels > 1:
        return seriate(unit_CE)
    pairs = match(unit_CE @ unit_CE.T)
    left_over = sorted(set(range(len(unit_CE))) - {member for pair in pairs for member in pair})
    middles = np.stack([unit_CE[list(pair)].mean(axis=0) for pair in pairs])
    return np.array([member for k in seriate(middles) for member in pairs[k]] + left_over)


def match(similarity_CC: np.ndarray) -> list[tuple[int, int]]:
    """The C // 2 pairs with the largest sum of similarities, each partner among the other's nearest.

    Classes whose nearest are all taken are paired with one another, as they come.
    """
    similarity = similarity_CC.astype(float)
    np.fill_diagonal(similarity, -np.inf)
    nearest = np.argsort(-similarity, axis=1, kind="stable")[:, : min(NEAREST, len(similarity) - 1)]
    pairs = (greedy_pairs if len(similarity) > MANY else best_pairs)(similarity, nearest)
    alone = sorted(set(range(len(similarity))) - {member for pair in pairs for member in pair})
    return sorted([*pairs, *zip(alone[::2], alone[1::2], strict=False)])


def best_pairs(similarity_CC: np.ndarray, nearest_CK: np.ndarray) -> list[tuple[int, int]]:
    """Of as many pairs of near classes as there can be those with the largest sum."""
    graph = networkx.Graph()
    graph.add_weighted_edges_from((i, int(j), similarity_CC[i, j]) for i, near in enumerate(nearest_CK) for j in near)
    return [(min(pair), max(pair)) for pair in networkx.max_weight_matching(graph, maxcardinality=True)]


def greedy_pairs(similarity_CC: np.ndarray, nearest_CK: np.ndarray) -> list[tuple[int, int]]:
    """The most alike of the near classes, then the most alike of the others, and so on."""
    first = np.repeat(np.arange(len(nearest_CK)), nearest_CK.shape[1])
    second, taken, pairs = nearest_CK.ravel(), set[int](), []
    for k in np.argsort(-similarity_CC[first, second], kind="stable"):
        pair = int(first[k]), int(second[k])
        if taken.isdisjoint(pair):
            taken.update(pair)
            pairs.append((min(pair), max(pair)))
    return pairs


def seriate(vectors: np.ndarray) -> np.ndarray:
    """Rows in the order of the leaves of their hierarchical clustering, neighbours near each other."""
    if len(vectors) < 3:
        return np.arange(len(vectors))
    return leaves_list(linkage(vectors, method="average", optimal_ordering=len(vectors) <= MANY))
