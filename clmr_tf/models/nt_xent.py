"""NT-Xent, the contrastive loss of SimCLR and CLMR, and contrastive accuracy."""

import tensorflow as tf

from clmr_tf.models.replicas import gather_rows


def nt_xent(z_i: tf.Tensor, z_j: tf.Tensor, temperature: float) -> tf.Tensor:
    """The normalised temperature-scaled cross entropy of a batch of pairs.

    Each of the 2N projections is an anchor; its positive is the other view of the same item, its negatives are the
    2N-2 remaining projections. Equation 1 of Chen et al. 2020 (SimCLR), section 3.1 of Spijkervet and Burgoyne 2021
    (CLMR), with cosine similarity, averaged over the 2N anchors as in the released PyTorch code. Computed in float32,
    or in float64 for float64 inputs. With several replicas the negatives come from all of them (in the released code
    only from its own process), and the result is the mean over this replica's anchors.

    Args:
        z_i: Projections of the first views, [N, dimensions].
        z_j: Projections of the second views, [N, dimensions], in the same order.
        temperature: Divides the similarities.

    Returns:
        float32 scalar, float64 for float64 inputs.
    """
    loss, _ = nt_xent_with_accuracy(z_i, z_j, temperature)
    return loss


def nt_xent_with_accuracy(z_i: tf.Tensor, z_j: tf.Tensor, temperature: float) -> tuple[tf.Tensor, tf.Tensor]:
    """The loss of `nt_xent`, and the fraction of anchors whose positive is more similar than all others.

    Returns:
        Two float32 scalars. The chance level of the accuracy is 1 / (2N - 1).
    """
    logits, positives = _similarity_logits(z_i, z_j, temperature)
    hits = tf.equal(tf.argmax(logits, axis=1, output_type=tf.int32), positives)
    # This must be the last op that reads the logits; then the gradient can reuse their memory.
    with tf.control_dependencies([hits]):
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=positives, logits=logits)
    return tf.reduce_mean(losses), tf.reduce_mean(tf.cast(hits, tf.float32))


def _similarity_logits(z_i: tf.Tensor, z_j: tf.Tensor, temperature: float) -> tuple[tf.Tensor, tf.Tensor]:
    """Scores this replica's 2n anchors against all 2N projections.

    Returns:
        float32 [2n, 2N] with each anchor's similarity to itself masked, and int32 [2n], the column of each
        anchor's positive. Columns alternate between the views: 2k is z_i[k], 2k + 1 is z_j[k].
    """
    dimensions = z_i.shape[-1]
    pairs = tf.stack([z_i, z_j], axis=1)
    pairs = tf.math.l2_normalize(pairs if pairs.dtype == tf.float64 else tf.cast(pairs, tf.float32), axis=-1)
    all_pairs, first_pair = gather_rows(pairs)
    anchors = tf.reshape(pairs, [-1, dimensions])
    columns = tf.reshape(all_pairs, [-1, dimensions])
    logits = tf.matmul(anchors / temperature, columns, transpose_b=True)
    rows = tf.range(tf.shape(anchors)[0])
    own_columns = 2 * first_pair + rows
    # The lowest finite number, since minus infinity would make the gradient of the softmax NaN. It is scattered into
    # the matrix, since a mask would be a second matrix of that size.
    lowest = tf.fill(tf.shape(rows), logits.dtype.min)
    logits = tf.tensor_scatter_nd_update(logits, tf.stack([rows, own_columns], axis=1), lowest)
    return logits, tf.bitwise.bitwise_xor(own_columns, 1)
