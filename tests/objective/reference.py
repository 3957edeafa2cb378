"""FLSL in float64 NumPy, written from the paper's equations with loops over queries; shares nothing with the package."""

import numpy as np


def softmax(values):
    shifted = np.exp(values - values.max())
    return shifted / shifted.sum()


def mean_shift(queries, tokens, inv_temp):
    """Eq. 4, one query at a time."""
    modes = np.zeros_like(queries)
    for place in np.ndindex(queries.shape[:-1]):
        image = tokens[place[:-1]]
        weights = softmax(np.array([inv_temp * queries[place] @ token for token in image]))
        modes[place] = sum(weight * token for weight, token in zip(weights, image))
    return modes


def intra(queries, modes):
    """Eq. 8 with both sides l2-normalised."""
    queries, modes = queries.reshape(-1, queries.shape[-1]), modes.reshape(-1, modes.shape[-1])
    distances = [np.sum((q / np.linalg.norm(q) - m / np.linalg.norm(m)) ** 2) for q, m in zip(queries, modes)]
    return np.mean(distances)


def inter(student_logits, teacher_probs, temp):
    """Eq. 11."""
    student_logits = student_logits.reshape(-1, student_logits.shape[-1])
    teacher_probs = teacher_probs.reshape(-1, teacher_probs.shape[-1])
    terms = [-np.sum(p * np.log(softmax(s / temp))) for s, p in zip(student_logits, teacher_probs)]
    return np.mean(terms)


def volume(student_logits, temp, prior):
    """The KL term of Eq. 13."""
    rows = student_logits.reshape(-1, student_logits.shape[-1])
    mean = np.mean([softmax(row / temp) for row in rows], axis=0)
    return np.sum(mean * (np.log(mean) - np.log(prior)))


def total(queries, tokens, head, teacher_probs, *, inv_temp, temp, prior, weights):
    """Eq. 13 from student queries and tokens, with a linear head in place of the network's."""
    modes = mean_shift(queries, tokens, inv_temp)
    logits = modes @ head
    terms = intra(queries, modes), inter(logits, teacher_probs, temp), volume(logits, temp, prior)
    return sum(weight * term for weight, term in zip(weights, terms))


def guided_weights(queries, tokens, inv_temp, sharpness):
    """docs/method.md, Second stage: sigmoid(s · (a − mean a)), renormalised; one query at a time."""
    weights = np.zeros((*queries.shape[:-1], tokens.shape[-2]))
    for place in np.ndindex(queries.shape[:-1]):
        attention = softmax(np.array([inv_temp * queries[place] @ token for token in tokens[place[:-1]]]))
        members = 1 / (1 + np.exp(-sharpness * (attention - attention.mean())))
        weights[place] = members / members.sum()
    return weights
